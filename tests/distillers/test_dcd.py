"""DCD in the minihost: its numbers, its teacher, its settings."""

import csv
import math

import pytest
import torch
from runs import Watch, assert_same_gradients, distil, fit, resumed, shaken
from scipy import integrate, special, stats

from mdlm_mcd import distillers, hosts
from mdlm_mcd.coupling import counter_generator, draw_u, sample_times
from mdlm_mcd.duality import NoiseGap
from mdlm_mcd.errors import CheckpointError, ConfigError, DivergenceError
from mdlm_mcd.evaluation import embedded
from mdlm_mcd.hosts import specs
from mdlm_mcd.minihost import algo, dataloader
from mdlm_mcd.minihost import main as minihost

DCD = hosts.distiller("DCD", specs.DUO, algo)


@pytest.fixture(scope="module")
def uniform_path(request, tmp_path_factory):
    """A teacher trained for 60 steps by the host's own `algo=duo_base`."""
    folder = tmp_path_factory.mktemp("teacher")
    compose = request.getfixturevalue("module_compose")
    minihost.run(
        compose(
            "algo=duo_base",
            "trainer.max_steps=60",
            "optim.lr=1e-2",
            f"checkpointing.save_dir={folder}",
        )
    )
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture
def dcd(compose, uniform_path):
    def build(*overrides):
        return compose(
            "algo=dcd",
            "algo.rounds=2",
            "algo.steps_per_round=6",
            "algo.gamma_max=1",
            "algo.delta0=1/16",
            "trainer.max_steps=12",
            "optim.lr=1e-3",
            f"algo.teacher_path={uniform_path}",
            *overrides,
        )

    return build


@pytest.mark.parametrize("kind", DCD.loss_kinds)
def test_two_rounds(dcd, kind, tmp_path):
    """The teacher, in eval mode, changes at round starts alone."""
    watch = Watch()
    config = dcd(f"algo.loss={kind}", "model.dropout=0.1", "trainer.val_check_interval=5")
    model, _ = fit(config, watch)
    assert isinstance(model, distillers.DCD) and isinstance(model, algo.DUO_BASE)
    assert watch.rounds == [0] * 6 + [1] * 6 and not any(watch.teacher_modes)
    for step in range(12):
        start = step // 6 * 6
        assert torch.equal(watch.teachers[step], watch.weights[start])
    # Nothing moves the student but optimizer steps.
    for after, before in zip(watch.after_step, watch.weights[1:], strict=False):
        assert torch.equal(after, before)
    assert all(0 <= x < 5 for x in watch.losses) and max(watch.losses) > 1e-4
    assert not any("teacher" in k for k in model.state_dict())
    names = {p.name for p in (tmp_path / "checkpoints").iterdir()}
    assert {"round-1.ckpt", "round-2.ckpt", "last.ckpt"} <= names


def test_a_student_that_agrees_at_both_times_is_a_fixed_point(dcd):
    """A model that predicts the same of any view and time has nothing to learn."""
    # Adam would make steps of the learning rate out of rounding.
    config = dcd("algo.init_from=scratch", "optim.eps=1e-3")
    model = DCD(config, dataloader.get_tokenizer(config))
    with torch.no_grad():  # at its start the model is blind to its input
        model.backbone.output_layer.linear.bias.normal_(std=2.0)
    watch = Watch()
    fit(config, watch, model=model)
    assert max(watch.losses) < 1e-6
    torch.testing.assert_close(watch.after_step[-1], watch.weights[0])


def test_loss_falls(dcd):
    watch = Watch()
    fit(
        dcd(
            "algo.rounds=1",
            "algo.steps_per_round=60",
            "trainer.max_steps=60",
            "algo.delta0=0.5",
            "optim.lr=3e-3",
            "algo.tau0=0.5",
        ),
        watch,
    )
    assert sum(watch.losses[-15:]) < 0.7 * sum(watch.losses[:15])


def observed(model, x0, valid, step=8):
    """`distil` at a global step, the views and alphas its networks were given."""
    seen = []
    denoise = model.host_denoise

    def watched(backbone, z, alpha_t, condition):
        seen.append((z, alpha_t))
        return denoise(backbone, z, alpha_t, condition)

    model.host_denoise = watched
    return distil(model, x0, valid, step), seen


@pytest.mark.parametrize("kind", DCD.loss_kinds)
def test_contract_with_a_float64_computation_from_scratch(dcd, kind):
    """One step's loss and gradients, from Gaussian latents and the paper's text."""
    config = dcd(
        "algo.head_chunk=5",
        f"algo.loss={kind}",
        "algo.tau0=0.8",
        "algo.delta0=0.25",
        "loader.batch_size=4",
    )
    model = DCD(config, dataloader.get_tokenizer(config)).double()
    size, (student, target) = model.vocab_size, shaken(model, 1)
    x0 = torch.randint(0, size, (4, 16))
    valid = torch.ones(4, 16, dtype=torch.long)
    valid[2, 10:] = 0
    parts, seen = observed(model, x0, valid)
    (parts.loss / valid.sum()).backward()
    assert (parts.distil_rows, parts.reveal_rows) == (valid.sum(), 0)

    t, s = sample_times(4, 0.5, generator=counter_generator(1, 8, "t"))
    u = draw_u(4, 16, generator=counter_generator(1, 8, "u"))
    others = torch.randint(size - 1, (4, 16), generator=counter_generator(1, 8, "other token"))
    # A vector of noise that has this u and this j*: the rest far below.
    gap, views = NoiseGap(size).icdf(u), []
    for time in (t, s):
        gamma = -4 + 5 * time
        z = torch.empty_like(x0)
        for b in range(4):
            for i in range(16):
                clean = int(x0[b, i])
                rest = [v for v in range(size) if v != clean]
                eps = torch.full((size,), -1e3, dtype=torch.float64)
                eps[clean] = 0.0
                eps[rest[others[b, i]]] = gap[b, i]
                w = (1 + gamma[b].exp()).rsqrt() * torch.eye(size)[clean].double()
                w = w + (1 + (-gamma[b]).exp()).rsqrt() * eps
                z[b, i] = w.argmax()
        # Eq. 10 by adaptive quadrature.
        alpha = torch.stack([transform(g, size) for g in gamma])
        views.append((z, alpha))
    for (z, alpha), (got_z, got_alpha) in zip(views, seen, strict=True):
        assert torch.equal(z, got_z) and (z != x0).any()
        torch.testing.assert_close(got_alpha, alpha, rtol=1e-9, atol=1e-12)
    assert not torch.equal(views[0][0], views[1][0])
    total = torch.zeros((), dtype=torch.float64)
    (z_t, alpha_t), (z_s, alpha_s) = seen
    log_p = student(z_t, -alpha_t.log()).log_softmax(-1)
    with torch.no_grad():
        log_q = (target(z_s, -alpha_s.log()) / 0.8).log_softmax(-1)
    for b in range(4):
        for i in range(16):
            if valid[b, i]:
                p, q = log_p[b, i], log_q[b, i]
                of, to = (p, q) if kind == "kl_bwd" else (q, p)
                total = total + sum(of.exp() * (of - to))
    (total / valid.sum()).backward()
    torch.testing.assert_close(parts.loss, total.detach(), rtol=1e-12, atol=1e-12)
    assert_same_gradients(model.backbone, student)


def transform(gamma, size):
    """T(alpha_tilde) by SciPy, for alpha_tilde^2 = sigmoid(-gamma)."""
    ratio = math.exp(-gamma / 2)

    def density(z):
        return stats.norm.pdf(z - ratio) * special.ndtr(z) ** (size - 1)

    kept, _ = integrate.quad(density, -12, 12 + ratio, epsabs=1e-13, epsrel=1e-12, limit=500)
    return torch.tensor((size * kept - 1) / (size - 1), dtype=torch.float64)


def test_ignore_bos_keeps_the_first_token(dcd):
    config = dcd("algo.ignore_bos=true", "loader.batch_size=4")
    model = DCD(config, dataloader.get_tokenizer(config))
    shaken(model, 1)
    x0 = torch.randint(0, 250, (4, 16))
    _, seen = observed(model, x0, torch.ones_like(x0))
    for z, _ in seen:
        assert torch.equal(z[:, 0], x0[:, 0]) and not torch.equal(z, x0)


@pytest.mark.parametrize("stop", [6, 8])
def test_resume_is_exact(dcd, tmp_path, stop):
    model, watch, other, again = resumed(dcd, tmp_path, f"step-{stop}")
    assert again.losses == watch.losses[stop:]
    assert torch.equal(again.teachers[0], watch.teachers[stop])
    assert torch.equal(Watch.flat(model), Watch.flat(other))


def test_gradient_accumulation_computes_the_same_update(dcd):
    ends = []
    for batch in (8, 2):
        model, _ = fit(dcd(f"loader.batch_size={batch}", "optim.eps=1e-3"))
        ends.append(Watch.flat(model.backbone))
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)


def test_the_hosts_own_algo_opens_the_student(dcd, compose, tmp_path):
    fit(dcd())
    path = tmp_path / "checkpoints" / "round-2.ckpt"
    common = [
        f"eval.checkpoint_path={path}",
        "sampling.steps=4",
        f"eval.generated_samples_path={tmp_path}/samples.json",
    ]
    sampled = minihost.run(compose("algo=duo_base", "mode=sample_eval", *common))
    assert sampled["entropy"] > 0 and sampled["sampling_dtype"] == "float64"
    plain = minihost.run(compose("algo=duo_base", "mode=ppl_eval", *common))
    student = minihost.run(dcd("mode=ppl_eval", *common))
    assert plain["val/nll"] == student["val/nll"] > 0
    assert minihost.run(dcd("mode=sample_eval", *common))["entropy"] > 0
    model, _ = embedded.open_model(path)
    assert type(model) is algo.DUO_BASE


def test_what_is_logged(dcd, tmp_path):
    fit(dcd())
    (path,) = tmp_path.glob("lightning_logs/*/metrics.csv")
    rows = [r for r in csv.DictReader(path.open()) if r["dcd/round"]]
    assert [float(r["dcd/delta"]) for r in rows] == [1 / 16] * 6 + [1 / 8] * 6
    for r in rows:
        assert float(r["trainer/loss"]) == pytest.approx(float(r["dcd/kl"]), rel=1e-4)
        assert float(r["dcd/rows_distil"]) == 1 and float(r["dcd/ce"]) == 0
        assert 0 < float(r["dcd/student_entropy"]) < 6


def test_the_papers_schedule(compose):
    config = compose("algo=dcd")
    curriculum = DCD.check_config(config)
    stages = [curriculum.at(10_000 * i) for i in range(5)]
    assert [x.delta for x in stages] == [2**i / 512 for i in range(5)]
    assert {x.tau for x in stages} == {1.0}
    assert (config.algo.gamma_min, config.algo.gamma_max) == (-4, -1)
    assert config.algo.loss == "kl_bwd"


def test_the_guard_does_not_speak_of_masks(dcd):
    with pytest.raises(DivergenceError) as error:
        fit(dcd("optim.lr=1e4", "trainer.gradient_clip_val=null"))
    said = str(error.value)
    assert "algo.loss=kl_bwd is" in said and "lower optim.lr" in said
    assert "mask" not in said and "hybrid" not in said


@pytest.mark.parametrize(
    "overrides,words",
    [
        (["algo.loss=hybrid"], ["algo.loss=hybrid", "algo=dcd", "kl_bwd, kl_fwd"]),
        (["algo.loss=mse"], ["algo.loss=mse", "kl_bwd, kl_fwd"]),
        (["algo.gamma_max=-1"], ["algo.gamma_max=-1 keeps", "set algo.gamma_max=1.31"]),
        (["algo.gamma_max=x"], ["algo.gamma_max=x is no number"]),
        (["algo.gamma_min=null"], ["algo.gamma_min=None must be a finite number"]),
        (["algo.gamma_max=null"], ["algo.gamma_max=None must be a finite number"]),
        (["algo.gamma_min=2"], ["algo.gamma_min=2", "in this order"]),
        (["algo.delta0=0.6"], ["algo.delta0=0.6", "round 2", "past t = 0"]),
        (["algo.parameterization=subs"], ["=subs", "a uniform-state model"]),
        (["algo.u_law=x"], ["algo.u_law=x", "lattice"]),
        (
            ["sampling.predictor=sparse"],
            ["sampling.predictor=sparse is not for uniform-state models", "ancestral"],
        ),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(dcd, overrides, words):
    with pytest.raises((ConfigError, CheckpointError)) as error:
        minihost.run(dcd(*overrides))
    assert all(word in str(error.value) for word in words), error.value


def test_teachers_of_the_other_kind_are_refused(dcd, compose, teacher_path, uniform_path):
    with pytest.raises(CheckpointError) as error:
        minihost.run(dcd(f"algo.teacher_path={teacher_path}"))
    for word in (
        f"{teacher_path} was trained under parameterization=subs",
        "a uniform-state model (mean) is needed",
    ):
        assert word in str(error.value)
    for name in ("mcd", "sdtt", "cd4lm"):
        with pytest.raises(CheckpointError) as error:
            rounds = 1 if name == "cd4lm" else 2
            minihost.run(
                compose(
                    f"algo={name}",
                    f"algo.rounds={rounds}",
                    "trainer.max_steps=12",
                    f"algo.steps_per_round={12 // rounds}",
                    f"algo.teacher_path={uniform_path}",
                )
            )
        assert "trained under parameterization=mean, and a masked" in str(error.value)


def test_a_host_without_such_models_says_so():
    with pytest.raises(ConfigError) as error:
        hosts.distiller("DCD", specs.MDLM, algo)
    for word in ("needs a uniform-state model", "MDLM's code has none", "Duo's layout"):
        assert word in str(error.value)
