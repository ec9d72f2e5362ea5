"""What the distillers have in common: rounds, teacher, resume, noise, settings."""

import pytest
import torch
from runs import ALGOS, Watch, changed, fit, logged, opened, student_class

from mdlm_mcd import distillers
from mdlm_mcd.errors import CheckpointError, ConfigError
from mdlm_mcd.minihost import algo as host
from mdlm_mcd.minihost import dataloader
from mdlm_mcd.minihost import main as minihost

MICROS, ROUND = 2, 3  # micro-batches of a step, steps of a round
every = pytest.mark.parametrize("algo", ["mcd", "sdtt", "dcd"])


@every
def test_a_teacher_is_the_student_at_its_rounds_start(trained, algo):
    """Bit for bit, in eval mode, to the round's end; only the optimizer moves a student."""
    folder, config, watch, model = trained(algo)
    hosts_own = host.DUO_BASE if algo == "dcd" else host.MDLM
    assert isinstance(model, getattr(distillers, ALGOS[algo])) and isinstance(model, hosts_own)
    batches = MICROS * ROUND
    assert watch.rounds == [0] * batches + [1] * batches and not any(watch.teacher_modes)
    for i, teacher in enumerate(watch.teachers):
        assert torch.equal(teacher, watch.weights[i // batches * batches])
    assert not torch.equal(watch.teachers[0], watch.teachers[-1])
    # Not validation (in a step, and at a round's end), which swaps the average in.
    for i, (before, after) in enumerate(zip(watch.weights, watch.after_step, strict=True)):
        assert torch.equal(before, after) == (i % MICROS == 0)
        assert i == 0 or torch.equal(watch.after_step[i - 1], before)
    assert all(0 <= x < 10 for x in watch.losses) and max(watch.losses) > 1e-6
    assert not any("teacher" in k for k in model.state_dict())
    teacher = {p.data_ptr() for p in model.teacher.backbone.parameters()}
    assert not teacher & {p.data_ptr() for p in model.parameters()}
    for k in (1, 2):
        saved = opened(folder / f"round-{k}.ckpt")
        noted = saved["mdlm_mcd"]
        assert saved["global_step"] == ROUND * k and noted["teacher"]["round"] == k - 1
        wanted = {"algo": algo, "loss": config.algo.loss, "round": k}
        assert (wanted | {"teacher_path": config.algo.teacher_path}).items() <= noted.items()


# At a boundary, where the teacher of mmd is that of the round before; and in mid-round.
@pytest.mark.parametrize(
    "algo, step",
    [("mcd", 3), ("mmd", 3), ("mcd", 4), ("sdtt", 4), ("dcd", 4), ("cd4lm", 4), ("mmd", 4)],
)
def test_resume_is_exact(trained, tmp_path, algo, step):
    folder, config, watch, model = trained(algo)
    again, start = Watch(), MICROS * step
    where = changed(config, f"checkpointing.save_dir={tmp_path}")
    other, _ = fit(where, again, folder / f"step-{step}.ckpt")
    assert again.losses == watch.losses[start:] and again.rounds == watch.rounds[start:]
    assert all(map(torch.equal, again.teachers, watch.teachers[start:]))
    assert all(map(torch.equal, again.weights, watch.weights[start:]))
    assert torch.equal(Watch.flat(model), Watch.flat(other))
    assert model.guard.running == other.guard.running > 0
    assert all(map(torch.equal, model.ema.shadow_params, other.ema.shadow_params))


@pytest.mark.parametrize("algo", ["mcd", "sdtt", "dcd", "cd4lm"])
def test_what_is_logged(trained, algo):
    folder, config, watch, _ = trained(algo)
    rows = logged(folder.parent, f"{algo}/round")
    steps = [{k.removeprefix(f"{algo}/"): v for k, v in row.items()} for row in rows]
    assert [r["round"] for r in steps] == [1] * ROUND + [2] * ROUND
    first = 1 / 8 if algo == "sdtt" else 1 / 16
    if algo != "cd4lm":
        assert [r["delta"] for r in steps] == [first] * ROUND + [2 * first] * ROUND
    assert [round(r["tau"], 4) for r in steps[2:4]] == ([0.96, 0.93] if algo == "mcd" else [1, 1])
    losses = zip(watch.losses[::MICROS], watch.losses[1::MICROS], strict=True)
    for r, both in zip(steps, losses, strict=True):  # of the step: a mean over its micro-batches
        assert r["trainer/loss"] == pytest.approx(r["kl"] + r["ce"], rel=1e-4)
        equal = algo != "cd4lm"  # whose mean is over masked tokens, of which there are not as many
        assert r["trainer/loss"] == pytest.approx(sum(both), rel=1e-5 if equal else 0.01)
        shown = r["rows_distil"] + r["rows_reveal"]
        assert shown == 1 if algo in ("dcd", "cd4lm") else 0 < shown <= 1
        assert 0 < r["student_entropy"] < 6 and r["grad_norm"] > 0
        assert r["ce"] == 0 or algo in ("mcd", "cd4lm")
    assert logged(folder.parent, "val/nll")


@pytest.mark.parametrize("algo, own", [("mcd", "mdlm"), ("dcd", "duo_base")])
def test_the_hosts_own_algo_opens_the_student(trained, config, tmp_path, algo, own):
    """Validation is the host's true NELBO, whatever the student trained on."""
    given = ["mode=ppl_eval", f"eval.checkpoint_path={trained(algo)[0] / 'round-2.ckpt'}"]
    mine, theirs = (minihost.run(config(*given, algo=name))["val/nll"] for name in (algo, own))
    assert mine == theirs > 0
    given[0] = "mode=sample_eval"
    given += ["sampling.steps=4", f"eval.generated_samples_path={tmp_path}/samples.json"]
    assert all(minihost.run(config(*given, algo=name))["entropy"] > 0 for name in (algo, own))


@pytest.mark.parametrize(
    "algo, deltas, taus",
    [
        ("mcd", [2**i / 512 for i in range(5)], [0.96, 0.93, 0.9, 0.87, 0.84]),
        # dt from 1/1024, doubling, over two steps of the teacher.
        ("sdtt", [2 * 2**i / 1024 for i in range(5)], [1.0] * 5),
        ("dcd", [2**i / 512 for i in range(5)], [1.0] * 5),
    ],
)
def test_the_papers_schedules(compose, algo, deltas, taus):
    curriculum = student_class(algo).check_config(compose(f"algo={algo}"))
    rounds = [curriculum.at(10_000 * i) for i in range(5)]
    assert ([r.delta for r in rounds], [r.tau for r in rounds]) == (deltas, taus)


# Settings -----------------------------------------------------------------------------

SETTINGS = [
    ("mcd", "algo.loss=kl", "algo.loss=kl is unknown to algo=mcd: .*hybrid, hybrid_fwd, kl_fwd"),
    ("mcd", "algo.coupling=x", "algo.coupling=x .*shared"),
    ("mcd", "algo.snapshot=ema training.ema=0", "algo.snapshot=ema .*training.ema"),
    ("mcd", "algo.min_entropy=[1]", r"algo.min_entropy=\[1\] is no number"),
    ("mcd", "algo.delta0=1/0", "algo.delta0=1/0 is no number: .*1/20"),
    ("mcd", "algo.delta0=0.9", "algo.delta0=0.9 .*round 2"),
    ("mcd", "algo.parameterization=mean", "parameterization=mean does .*a masked model"),
    ("mcd", "algo.u_step=1/8", "u_law=iid"),
    ("mcd", "sampling.u_lwa=iid", "u_lwa=iid is read neither .*did you mean sampling.u_law?"),
    ("mcd", "sampling.greedy_tail=-1", "greedy_tail=-1 must be a whole"),
    ("sdtt", "algo.loss=hybrid", "algo.loss=hybrid is .*algo=sdtt: .*kl_bwd, kl_fwd"),
    ("sdtt", "algo.teacher_steps=1.5", "algo.teacher_steps=1.5 .*whole number"),
    ("cd4lm", "algo.loss=kl_fwd", "algo.loss=kl_fwd is unknown to algo=cd4lm: .*kl_soft"),
    ("dcd", "algo.gamma_min=null", "algo.gamma_min=None is no number"),
    ("dcd", "algo.parameterization=subs", "=subs .*a uniform-state model"),
    ("mmd", "algo.candidates=1", "algo.candidates=1 .*at least 2"),
    ("mmd", "algo.feature_block=-1", "feature_block=-1 .*at least 0"),
    ("mmd", "algo.rbf_alpha=0", "algo.rbf_alpha=0 must be a finite number above 0"),
    ("dcd", "sampling.predictor=sparse", "sparse is not for uniform-state models .*ancestral"),
]


@pytest.mark.parametrize("algo, overrides, words", SETTINGS)
def test_bad_settings_are_refused(config, algo, overrides, words):
    with pytest.raises(ConfigError, match=words):
        student_class(algo).check_config(config(*overrides.split(), algo=algo))


@pytest.mark.parametrize(
    "overrides, words",
    [
        ("algo.losss=ce", "did you mean algo.loss?"),
        ("trainer.max_steps=7", "trainer.max_steps=7 .*2 .* 3 = 6"),
        ("algo.teacher_path=", "algo.teacher_path is empty.*scratch"),
        ("algo.teacher_path=/no/such.ckpt", "/no/such.ckpt is no file"),
    ],
)
def test_they_are_refused_before_the_text_is_read(config, monkeypatch, overrides, words):
    monkeypatch.setattr(dataloader, "get_dataloaders", lambda *a: pytest.fail("read the text"))
    with pytest.raises((ConfigError, CheckpointError), match=words):
        minihost.run(config(overrides))


def test_fractions_are_numbers_too(config):
    given = config("algo.u_law=lattice", "algo.u_step=1/8", "sampling.predictor=locked")
    before = torch.get_rng_state()
    assert student_class("mcd").check_config(given).delta0 == 1 / 16
    assert torch.equal(torch.get_rng_state(), before)  # of a trial draw
