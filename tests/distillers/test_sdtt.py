"""SDTT in the minihost: its numbers, its teacher, its settings."""

import pytest
import torch
from runs import Watch, assert_same_gradients, distil, fit, resumed, shaken

from mdlm_mcd import hosts, losses
from mdlm_mcd.coupling import counter_generator, draw_u, sample_times
from mdlm_mcd.errors import CheckpointError, ConfigError
from mdlm_mcd.hosts import specs
from mdlm_mcd.minihost import algo, dataloader
from mdlm_mcd.minihost import main as minihost

SDTT = hosts.distiller("SDTT", specs.DUO, algo)


@pytest.fixture
def sdtt(compose, teacher_path):
    def build(*overrides):
        return compose(
            "algo=sdtt",
            "algo.rounds=2",
            "algo.steps_per_round=6",
            "algo.delta0=0.125",
            "trainer.max_steps=12",
            "optim.lr=1e-3",
            f"algo.teacher_path={teacher_path}",
            *overrides,
        )

    return build


@pytest.mark.parametrize("kind", SDTT.loss_kinds)
def test_two_rounds(sdtt, kind):
    watch = Watch()
    fit(sdtt(f"algo.loss={kind}", "model.dropout=0.1"), watch)
    assert watch.rounds == [0] * 6 + [1] * 6 and not any(watch.teacher_modes)
    for start in (0, 6):
        assert torch.equal(watch.teachers[start], watch.weights[start])
    assert len(watch.losses) == 12 and all(0 <= x < 5 for x in watch.losses)
    assert not torch.equal(watch.weights[0], watch.weights[-1])


def test_loss_falls(sdtt):
    watch = Watch()
    fit(
        sdtt(
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


@pytest.mark.parametrize("kind", SDTT.loss_kinds)
@pytest.mark.parametrize("teacher_steps", [2, 3])
def test_contract_with_a_float64_computation_from_scratch(sdtt, kind, teacher_steps):
    """One step's loss and gradients, token by token, from the paper's text."""
    config = sdtt(
        "algo.head_chunk=5",
        f"algo.loss={kind}",
        "algo.tau0=0.8",
        f"algo.teacher_steps={teacher_steps}",
        "algo.growth=2",
        "algo.delta0=0.25",
    )
    tokenizer = dataloader.get_tokenizer(config)
    model = SDTT(config, tokenizer).double()
    stage = model.curriculum.at(8)
    student, target = shaken(model, stage.index)
    x0 = torch.randint(0, 250, (4, 16))
    valid = torch.ones(4, 16, dtype=torch.long)
    valid[2, 10:] = 0
    model.config.loader.batch_size = 4
    parts = distil(model, x0, valid, step=8)
    (parts.loss / valid.sum()).backward()
    assert parts.reveal_rows == 0

    # From scratch: the same random numbers, everything else by its definition.
    mask = model.mask_index
    t, s = sample_times(4, stage.delta, generator=counter_generator(1, 8, "t"))
    u = draw_u(4, 16, generator=counter_generator(1, 8, "u"))

    def keeps(time):
        return 1 - (1 - 1e-3) * time

    z_t = torch.where(u > keeps(t)[:, None], mask, x0)
    opens, values = (
        [
            torch.rand(4, 16, generator=counter_generator(1, 8, f"{name} {k}"), dtype=torch.float64)
            for k in range(teacher_steps - 1)
        ]
        for name in ("open", "token")
    )
    targets = [[None] * 16 for _ in range(4)]
    with torch.no_grad():
        for b in range(4):
            z, dt = z_t[b].clone(), float(t[b] - s[b]) / teacher_steps
            assert float(t[b]) - teacher_steps * dt >= -1e-12  # never past t = 0
            for k in range(teacher_steps):
                logits = target(z[None], torch.zeros(1))[0] / stage.tau
                logits[:, mask] = -torch.inf
                p = logits.softmax(-1)
                now, after = keeps(t[b] - k * dt), keeps(t[b] - (k + 1) * dt)
                chance, following = (after - now) / (1 - now), z.clone()
                for i in range(16):
                    if z[i] != mask:
                        continue
                    targets[b][i] = p[i]
                    if k < teacher_steps - 1 and opens[k][b, i] < chance:
                        cdf = p[i].cumsum(-1)
                        following[i] = int((cdf <= values[k][b, i]).sum())
                z = following
    assert any(
        not torch.equal(targets[b][i], targets[b][j])
        for b in range(4)
        for i in range(16)
        for j in range(i)
        if targets[b][i] is not None and targets[b][j] is not None
    )

    log_student = losses.subs(student(z_t, torch.zeros(4)), z_t, mask)
    total = torch.zeros((), dtype=torch.float64)
    for b in range(4):
        for i in range(16):
            if z_t[b, i] != mask or not valid[b, i]:
                continue
            log_p = torch.cat((log_student[b, i, :mask], log_student[b, i, mask + 1 :]))
            q = torch.cat((targets[b][i][:mask], targets[b][i][mask + 1 :]))
            p = log_p.exp()
            total = (
                total
                + {
                    "kl_bwd": (p * (log_p - q.log())).sum(),
                    "kl_fwd": (q * (q.log() - log_p)).sum(),
                    "mse": (log_p - q.log()).square().mean(),
                    "tvd": (p - q).abs().sum() / 2,
                }[kind]
            )
    expected = total / valid.sum()
    expected.backward()
    torch.testing.assert_close(parts.loss / valid.sum(), expected, rtol=1e-12, atol=1e-12)
    assert_same_gradients(model.backbone, student)


def test_resume_is_exact(sdtt, tmp_path):
    model, watch, other, again = resumed(sdtt, tmp_path, "step-8")
    assert again.losses == watch.losses[8:]
    assert torch.equal(Watch.flat(model), Watch.flat(other))


def test_accumulation_and_the_order_of_rows_change_nothing(sdtt):
    """The teacher's draws belong to a token, not to a call."""
    ends = []
    for batch in (8, 2):
        model, _ = fit(sdtt(f"loader.batch_size={batch}", "optim.eps=1e-3"))
        ends.append(Watch.flat(model.backbone))
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)


def test_its_student_is_a_plain_masked_model(sdtt, compose, tmp_path):
    fit(sdtt())
    path = tmp_path / "checkpoints" / "round-2.ckpt"
    result = minihost.run(compose("algo=mdlm", "mode=ppl_eval", f"eval.checkpoint_path={path}"))
    assert 0 < result["val/nll"] < 6


def test_the_papers_schedule(compose):
    config = compose("algo=sdtt")
    curriculum = SDTT.check_config(config)
    # dt from 1/1024, doubling, over two steps; no temperature.
    assert [curriculum.at(10_000 * i).delta for i in range(5)] == [
        2 * 2**i / 1024 for i in range(5)
    ]
    assert {curriculum.at(10_000 * i).tau for i in range(5)} == {1.0}
    assert SDTT.check_config(compose("algo=sdtt", "algo.teacher_steps=3")).growth == 3


@pytest.mark.parametrize(
    "overrides,words",
    [
        (["algo.loss=hybrid"], ["algo.loss=hybrid", "algo=sdtt", "kl_bwd, kl_fwd"]),
        (["algo.teacher_steps=0"], ["algo.teacher_steps=0", "at least 1"]),
        (["algo.teacher_steps=1.5"], ["algo.teacher_steps=1.5", "whole number"]),
        (["algo.delta0=0.6"], ["algo.delta0=0.6", "round 2", "past t = 0"]),
        (["algo.snapshot=x"], ["algo.snapshot=x", "raw, ema, fixed"]),
        (["algo.parameterization=mean"], ["parameterization=mean", "a masked model"]),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(sdtt, overrides, words):
    with pytest.raises((ConfigError, CheckpointError)) as error:
        minihost.run(sdtt(*overrides))
    assert all(word in str(error.value) for word in words), error.value
