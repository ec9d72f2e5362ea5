"""Real distillations in the minihost: rounds, teacher, checkpoints, resume."""

import csv
import logging
import subprocess
import sys

import pytest
import torch
from runs import Watch, assert_same_gradients, distil, fit, resumed, shaken

from mdlm_mcd import distillers, hosts, losses
from mdlm_mcd.coupling import counter_generator, draw_u, sample_times
from mdlm_mcd.distillers.resume import KEY as CHECKPOINT_KEY
from mdlm_mcd.distillers.rng import StepNoise
from mdlm_mcd.errors import CheckpointError, ConfigError, DivergenceError
from mdlm_mcd.hosts import specs
from mdlm_mcd.minihost import algo, dataloader
from mdlm_mcd.minihost import main as minihost

MCD = hosts.distiller("MCD", specs.DUO, algo)

MCD_OVERRIDES = [
    "algo=mcd",
    "algo.rounds=2",
    "algo.steps_per_round=6",
    "algo.delta0=0.0625",
    "trainer.max_steps=12",
    "optim.lr=1e-3",
]


@pytest.fixture
def mcd(compose, teacher_path):
    def build(*overrides):
        return compose(*MCD_OVERRIDES, f"algo.teacher_path={teacher_path}", *overrides)

    return build


def test_two_rounds(mcd, tmp_path):
    """The teacher changes at round starts alone, and weights with the optimizer's."""
    watch = Watch()
    config = mcd("trainer.val_check_interval=5", "model.dropout=0.1")
    model, _ = fit(config, watch)
    assert isinstance(model, distillers.MCD) and isinstance(model, algo.MDLM)
    assert watch.rounds == [0] * 6 + [1] * 6
    assert not any(watch.teacher_modes)  # eval: no dropout in the target
    # The snapshot is the student at the first step of the round, bit for bit ...
    for start in (0, 6):
        assert torch.equal(watch.teachers[start], watch.weights[start])
    # ... and stays, through steps and validations, to the round's end.
    for step in range(12):
        assert torch.equal(watch.teachers[step], watch.teachers[step // 6 * 6])
    assert not torch.equal(watch.teachers[0], watch.teachers[6])
    # Nothing moves the student but optimizer steps: not validation's EMA swap, not
    # the snapshot. (Inside a step, `Watch` compares start and optimizer.)
    for after, before in zip(watch.after_step, watch.weights[1:], strict=False):
        assert torch.equal(after, before)
    assert not any(torch.equal(a, b) for a, b in zip(watch.weights, watch.after_step, strict=True))
    folder = tmp_path / "checkpoints"
    names = {p.name for p in folder.iterdir()}
    assert {"round-1.ckpt", "round-2.ckpt", "last.ckpt"} <= names
    for k in (1, 2):
        held = torch.load(folder / f"round-{k}.ckpt", weights_only=True)
        assert held["global_step"] == 6 * k
        assert held[CHECKPOINT_KEY]["teacher"]["round"] == k - 1


def test_loss_falls(mcd):
    """Towards a sharper teacher. (Most of the rest is cross-entropy on few tokens.)"""

    class Divergence(Watch):
        def on_train_batch_end(self, trainer, *args):
            self.losses.append(float(trainer.logged_metrics["mcd/kl"]))

    watch = Divergence()
    fit(
        mcd(
            "algo.rounds=1",
            "algo.steps_per_round=80",
            "trainer.max_steps=80",
            "optim.lr=3e-3",
            "algo.tau0=0.5",
        ),
        watch,
    )
    assert sum(watch.losses[-15:]) < 0.7 * sum(watch.losses[:15])


def test_starts_from_the_teachers_average(mcd, teacher_path):
    held = torch.load(teacher_path, weights_only=True)
    shadow = torch.cat([p.flatten() for p in held["ema"]["shadow_params"]])
    raw = torch.cat([v.flatten() for k, v in held["state_dict"].items() if "inv_freq" not in k])
    assert not torch.equal(shadow, raw)
    watch = Watch()
    model, _ = fit(mcd("training.ema=0.5"), watch)
    assert torch.equal(watch.weights[0], shadow)
    # Its own EMA starts there, with the configured decay and a count of its own.
    assert model.ema.decay == 0.5 and model.ema.num_updates == 12
    watch = Watch()
    fit(mcd("algo.init_from=raw"), watch)
    assert torch.equal(watch.weights[0].sort().values, raw.sort().values)


def test_finetune_path_is_the_default_teacher(compose, teacher_path):
    """Hosts open that file first; what that would leave behind does not matter."""
    config = compose(*MCD_OVERRIDES, f"training.finetune_path={teacher_path}", "training.ema=0.25")
    tokenizer = dataloader.get_tokenizer(config)
    model = minihost.load_from_checkpoint(MCD, str(teacher_path), config, tokenizer)
    # It is not opened at all: torch refuses such files of the public hosts.
    assert model.ema.decay == 0.25 and model.ema.num_updates == 0
    model.ema.decay, model.ema.num_updates = 0.9, 60
    model.fast_forward_epochs = model.fast_forward_batches = 60
    watch = Watch()
    fit(config, watch, model=model)
    held = torch.load(teacher_path, weights_only=True)
    shadow = torch.cat([p.flatten() for p in held["ema"]["shadow_params"]])
    assert torch.equal(watch.weights[0], shadow)
    assert model.ema.decay == 0.25 and model.ema.num_updates == 12
    assert model.fast_forward_epochs is None and model.fast_forward_batches is None


def test_the_teacher_is_no_part_of_the_module(mcd):
    model, trainer = fit(mcd())
    assert not any("teacher" in k for k in model.state_dict())
    teacher = {p.data_ptr() for p in model.teacher.backbone.parameters()}
    (optimizer,) = trainer.optimizers
    assert not teacher & {p.data_ptr() for g in optimizer.param_groups for p in g["params"]}
    assert not teacher & {p.data_ptr() for p in model.parameters()}


def test_the_hosts_own_algo_opens_the_student(mcd, compose, tmp_path):
    """Without the plugin: `algo=mdlm`, sampled and evaluated from round-2.ckpt."""
    fit(mcd())
    path = tmp_path / "checkpoints" / "round-2.ckpt"
    common = [
        f"eval.checkpoint_path={path}",
        "sampling.steps=4",
        f"eval.generated_samples_path={tmp_path}/samples.json",
    ]
    result = minihost.run(compose("algo=mdlm", "mode=sample_eval", *common))
    assert result["entropy"] > 0 and result["sampling_dtype"] == "float64"
    mdlm = minihost.run(compose("algo=mdlm", "mode=ppl_eval", *common))
    student = minihost.run(mcd("mode=ppl_eval", *common))
    # Validation is the host's true NELBO, whatever the student trained on.
    assert mdlm["val/nll"] == student["val/nll"] > 0


@pytest.mark.parametrize("batch", [8, 2])
@pytest.mark.parametrize("name", ["step-3", "step-6", "round-1", "step-8"])
def test_resume_is_exact(mcd, tmp_path, name, batch):
    """Stopped in mid-round or at a boundary, a run ends with the same weights."""
    stop = 6 if name == "round-1" else int(name.split("-")[1])
    micros = 8 // batch
    model, watch, other, again = resumed(
        mcd,
        tmp_path,
        name,
        f"loader.batch_size={batch}",
        "model.dropout=0.2",
        "trainer.val_check_interval=4",
    )
    assert again.losses == watch.losses[stop * micros :]
    assert torch.equal(again.weights[0], watch.weights[stop * micros])
    for a, b in zip(again.teachers, watch.teachers[stop * micros :], strict=True):
        assert torch.equal(a, b)
    assert torch.equal(Watch.flat(model), Watch.flat(other))
    assert model.guard.running == other.guard.running > 0
    for a, b in zip(model.ema.shadow_params, other.ema.shadow_params, strict=True):
        assert torch.equal(a, b)


def test_a_validation_at_a_rounds_boundary(mcd):
    """It swaps the average in; the teacher is the student itself all the same."""

    class Validated(Watch):
        def __init__(self):
            super().__init__()
            self.averages, self.nll = [], []

        def on_validation_end(self, trainer, module):
            if not trainer.sanity_checking:
                shadow = [p.flatten() for p in module.ema.shadow_params]
                self.averages.append(torch.cat(shadow))
                self.nll.append(float(trainer.callback_metrics["val/nll"]))

    watch = Validated()
    fit(mcd("trainer.val_check_interval=6", "training.ema=0.9"), watch)
    assert torch.equal(watch.teachers[6], watch.weights[6])
    assert torch.equal(watch.weights[6], watch.after_step[5])
    assert len(watch.averages) == 2
    assert not torch.equal(watch.averages[0], watch.teachers[6])
    assert min(watch.nll) > 1


def test_gradient_accumulation_computes_the_same_update(mcd):
    """u and t belong to a sequence's place in the global batch, not to a call."""
    ends = []
    for batch in (8, 2):
        config = mcd(f"loader.batch_size={batch}", "optim.eps=1e-3")
        assert config.trainer.accumulate_grad_batches == 8 // batch
        watch = Watch()
        model, _ = fit(config, watch)
        assert watch.rounds[0] == 0 and len(watch.rounds) == 12 * 8 // batch
        ends.append(Watch.flat(model.backbone))
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)


def test_teacher_changes_once_under_accumulation(mcd):
    watch = Watch()
    fit(mcd("loader.batch_size=2"), watch)
    # Four micro-batches a step, six steps a round.
    for start in (0, 24):
        assert torch.equal(watch.teachers[start], watch.weights[start])
        for i in range(start, start + 24):
            assert torch.equal(watch.teachers[i], watch.teachers[start])


@pytest.mark.slow
def test_two_processes_compute_the_update_of_one(compose, teacher_path, tmp_path):
    """DDP over gloo, through the command line: the same weights after two rounds."""
    path = f"algo.teacher_path={teacher_path}"
    ends = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "mdlm_mcd.minihost.main",
                *compose.tiny,
                *MCD_OVERRIDES,
                path,
                "optim.eps=1e-3",
                f"hydra.run.dir={folder}",
                f"checkpointing.save_dir={folder}",
                f"trainer.devices={processes}",
                "strategy=ddp",
            ],
            cwd=tmp_path,
            text=True,
            capture_output=True,
            timeout=180,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        held = torch.load(folder / "checkpoints" / "round-2.ckpt", weights_only=True)
        ends.append(held)
    for key, value in ends[0]["state_dict"].items():
        torch.testing.assert_close(value, ends[1]["state_dict"][key], rtol=0, atol=2e-5)


def test_contract_with_a_float64_computation_from_scratch(mcd):
    """One step's loss and gradients, from the host's `forward` and the paper's text."""
    config = mcd("algo.head_chunk=5")
    tokenizer = dataloader.get_tokenizer(config)
    model = MCD(config, tokenizer).double()
    stage = model.curriculum.at(8)
    student, target = shaken(model, stage.index)
    x0 = torch.randint(0, 250, (8, 16))
    valid = torch.ones(8, 16, dtype=torch.long)
    valid[2, 10:] = 0
    loss = distil(model, x0, valid, step=8).loss / valid.sum()
    loss.backward()

    t, s = sample_times(8, stage.delta, generator=counter_generator(1, 8, "t"))
    u = draw_u(8, 16, generator=counter_generator(1, 8, "u"))
    alpha = [1 - (1 - 1e-3) * time[:, None] for time in (t, s)]
    z_t, z_s = (torch.where(u > a, model.mask_index, x0) for a in alpha)
    config.sampling.predictor = "ancestral_cache"  # the host's own knows not ours
    reference = algo.MDLM(config, tokenizer).double()
    reference.backbone.load_state_dict(student.state_dict())
    log_student = reference(z_t, -torch.log(alpha[0]))
    with torch.no_grad():
        log_teacher = losses.subs(target(z_s, torch.zeros(8)) / stage.tau, z_s, model.mask_index)
    total = torch.zeros((), dtype=torch.float64)
    for b in range(8):
        for i in range(16):
            if z_t[b, i] != model.mask_index or not valid[b, i]:
                continue
            p, q = log_student[b, i], log_teacher[b, i]
            if z_s[b, i] == model.mask_index:
                total = total + (p.exp() * (p - q)).sum()
            else:
                total = total - p[x0[b, i]]
    expected = total / valid.sum()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    assert_same_gradients(model.backbone, reference.backbone)


def test_padding_costs_nothing_and_is_not_counted(mcd):
    """Rows of padding are not projected; the loss is per valid token."""
    overrides = ("data.wrap=false", "model.length=48", "algo.init_from=scratch")
    config = mcd(*overrides)
    seen = []

    class Student(MCD):
        def distil(self, stage, x0, valid, condition, micro):
            parts = super().distil(stage, x0, valid, condition, micro)
            seen.append((parts, valid))
            return parts

    model, watch = Student(config, dataloader.get_tokenizer(config)), Watch()
    fit(config, watch, model=model)
    assert len(seen) == 12 and any((valid == 0).any() for _, valid in seen)
    for (parts, valid), loss in zip(seen, watch.losses, strict=True):
        assert parts.distil_rows + parts.reveal_rows <= valid.sum()
        assert (parts.per_token[valid == 0] == 0).all()
        expected = (parts.distil + parts.reveal) / valid.sum()
        assert loss == pytest.approx(float(expected), rel=1e-5)
    # At t near 1 nearly all valid tokens are masked, so the bound is nearly met.
    share = max((p.distil_rows + p.reveal_rows) / v.sum() for p, v in seen)
    assert share > 0.4


def test_ignore_bos_keeps_the_first_token_visible(mcd):
    seen = []

    class Student(MCD):
        def host_denoise(self, backbone, z, alpha_t, condition):
            seen.append((z == self.mask_index).any(0))
            return super().host_denoise(backbone, z, alpha_t, condition)

    config = mcd("algo.ignore_bos=true")
    model = Student(config, dataloader.get_tokenizer(config))
    fit(config, model=model)
    masked = torch.stack(seen).any(0)
    assert not masked[0] and masked[1:].all()


def test_what_is_logged(mcd, tmp_path):
    _, trainer = fit(mcd("trainer.val_check_interval=6"))
    bar = trainer.progress_bar_metrics
    assert (bar["mcd/round"], bar["mcd/delta"]) == (2, 1 / 8) and "mcd/tau" in bar
    assert "mcd/kl" not in bar  # the bar stays short
    (path,) = tmp_path.glob("lightning_logs/*/metrics.csv")
    rows = list(csv.DictReader(path.open()))
    steps = [r for r in rows if r["mcd/round"]]
    assert [float(r["mcd/round"]) for r in steps] == [1] * 6 + [2] * 6
    assert [float(r["mcd/delta"]) for r in steps] == [1 / 16] * 6 + [1 / 8] * 6
    assert float(steps[0]["mcd/tau"]) == pytest.approx(0.96)
    assert float(steps[6]["mcd/tau"]) == pytest.approx(0.93)
    for r in steps:
        total = float(r["mcd/kl"]) + float(r["mcd/ce"])
        assert float(r["trainer/loss"]) == pytest.approx(total, rel=1e-4)
        masked = float(r["mcd/rows_distil"]) + float(r["mcd/rows_reveal"])
        assert 0 < masked <= 1
        assert 0 < float(r["mcd/student_entropy"]) < 6
    assert any(r["val/nll"] for r in rows) and any(r["val/ppl"] for r in rows)


def test_a_fixed_teacher_serves_in_every_round(mcd, tmp_path):
    def config(folder):
        return mcd(
            "algo.snapshot=fixed",
            f"checkpointing.save_dir={tmp_path / folder}",
            "callbacks.checkpoint_every_n_steps.every_n_train_steps=1",
            "callbacks.checkpoint_every_n_steps.save_top_k=-1",
        )

    watch = Watch()
    model, _ = fit(config("whole"), watch)
    assert watch.rounds == [0] * 6 + [1] * 6
    assert all(torch.equal(x, watch.weights[0]) for x in watch.teachers)
    # Also across a stop, in a round or between two.
    for step in (6, 8):
        again, folder = Watch(), tmp_path / "whole" / "checkpoints"
        path = str(folder / f"step-{step}.ckpt")
        other, _ = fit(config(f"resumed{step}"), again, ckpt_path=path)
        assert all(torch.equal(x, watch.weights[0]) for x in again.teachers)
        assert torch.equal(Watch.flat(model), Watch.flat(other))


def test_a_teacher_from_the_average(mcd):
    averages = []

    class Averages(Watch):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            super().on_train_batch_start(trainer, module, batch, batch_idx)
            shadow = module.ema.shadow_params
            averages.append(torch.cat([p.flatten().clone() for p in shadow]))

    watch = Averages()
    fit(mcd("algo.snapshot=ema", "training.ema=0.5"), watch)
    assert torch.equal(watch.teachers[6], averages[6])
    assert not torch.equal(watch.teachers[6], watch.weights[6])
    # Taking it leaves the student and its average as they were.
    for after, before in zip(watch.after_step, watch.weights[1:], strict=False):
        assert torch.equal(after, before)


def test_an_average_of_halves_is_kept_in_float32(mcd):
    """Where the weights are bfloat16, a step of 1 - decay would vanish."""
    model, trainer = fit(mcd("trainer.precision=bf16-true", "training.ema=0.9999"))
    assert next(model.backbone.parameters()).dtype == torch.bfloat16
    assert {p.dtype for p in model.ema.shadow_params} == {torch.float32}


def test_a_fixed_gap(mcd):
    _, trainer = fit(mcd("algo.growth=1"))
    assert trainer.progress_bar_metrics["mcd/delta"] == 1 / 16


@pytest.mark.parametrize(
    "kind", ["hybrid", "hybrid_fwd", "kl_fwd", "ce", "hybrid_no_ce", "tvd", "mse"]
)
def test_the_guard_lets_good_losses_pass(mcd, kind):
    watch = Watch()
    fit(mcd(f"algo.loss={kind}"), watch)
    assert len(watch.losses) == 12


def test_the_guard_stops_kl_bwd_and_explains(mcd):
    with pytest.raises(DivergenceError) as error:
        fit(mcd("algo.loss=kl_bwd"))
    for words in ("algo.loss=kl_bwd", "step 0 (round 1", "% of the", "one-hot", "algo.loss=hybrid"):
        assert words in str(error.value), error.value


def test_the_guard_sees_steps_that_an_epoch_cuts_short(mcd):
    """Epochs of three micro-batches, four to a step: Lightning steps on the third."""
    with pytest.raises(DivergenceError, match="kl_bwd"):
        fit(mcd("algo.loss=kl_bwd", "loader.batch_size=2", "trainer.limit_train_batches=3"))


def test_a_student_without_an_average_is_not_shown_with_a_random_one(mcd, tmp_path):
    fit(mcd("training.ema=0"))
    fit_path = tmp_path / "checkpoints" / "round-2.ckpt"
    common = ("mode=ppl_eval", f"eval.checkpoint_path={fit_path}")
    assert minihost.run(mcd(*common, "training.ema=0"))["val/nll"] > 0
    with pytest.raises(CheckpointError, match="holds no EMA.*set training.ema=0"):
        minihost.run(mcd(*common))
    with pytest.raises(CheckpointError, match="training.ema=0, .*training.ema=0.995"):
        minihost.run(mcd(f"checkpointing.resume_ckpt_path={fit_path}"))


def test_the_guard_can_warn_or_look_away(mcd, caplog):
    with caplog.at_level(logging.WARNING, "mdlm_mcd"):
        watch = Watch()
        fit(mcd("algo.loss=kl_bwd", "algo.guard=warn"), watch)
        assert len(watch.losses) == 12 and max(watch.losses) > 1000
    assert len([r for r in caplog.records if "kl_bwd" in r.getMessage()]) == 1
    caplog.clear()
    with caplog.at_level(logging.WARNING, "mdlm_mcd"):
        fit(mcd("algo.loss=kl_bwd", "algo.guard=off"))
    assert not [r for r in caplog.records if "kl_bwd" in r.getMessage()]


def test_an_entropy_floor_warns_once_a_round(mcd, caplog):
    with caplog.at_level(logging.WARNING, "mdlm_mcd"):
        fit(mcd("algo.min_entropy=9"))
    said = [r.getMessage() for r in caplog.records if "min_entropy" in r.getMessage()]
    assert len(said) == 2 and "(round 1), below algo.min_entropy=9" in said[0]
    caplog.clear()
    with caplog.at_level(logging.WARNING, "mdlm_mcd"):
        fit(mcd("algo.min_entropy=0.001"))
        fit(mcd())
    assert not caplog.records


def test_the_gradients_norm_is_logged_before_clipping(mcd):
    norms = []

    class Norms(Watch):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            super().on_before_optimizer_step(trainer, module, optimizer)
            grads = [p.grad.flatten() for p in module.backbone.parameters()]
            norms.append(float(torch.cat(grads).norm()))

        def on_train_batch_end(self, trainer, *args):
            logged = float(trainer.callback_metrics["mcd/grad_norm"])
            assert logged == pytest.approx(norms[-1], rel=1e-5)
            super().on_train_batch_end(trainer, *args)

    fit(mcd("trainer.gradient_clip_val=1e-3"), Norms())
    assert len(norms) == 12 and min(norms) > 1e-3


@pytest.mark.parametrize("coupling", ["shared", "independent", "none"])
@pytest.mark.parametrize("law", ["iid", "lattice"])
def test_couplings_and_laws_train(mcd, coupling, law):
    watch = Watch()
    fit(mcd(f"algo.coupling={coupling}", f"algo.u_law={law}"), watch)
    assert all(0 <= loss < 10 for loss in watch.losses)
    if coupling == "none":
        # Same view, same weights: the first step knows only the temperature.
        assert watch.losses[0] < 0.01


def test_independent_masks_are_a_second_draw(mcd):
    """The teacher's view is not nested in the student's, and its noise is its own."""
    views = []

    class Student(MCD):
        def host_denoise(self, backbone, z, alpha_t, condition):
            views.append((backbone is self.backbone, z == self.mask_index))
            return super().host_denoise(backbone, z, alpha_t, condition)

    for coupling, nested in (("independent", False), ("shared", True)):
        views.clear()
        config = mcd(f"algo.coupling={coupling}")
        fit(config, model=Student(config, dataloader.get_tokenizer(config)))
        student = torch.cat([m for own, m in views if own])
        teacher = torch.cat([m for own, m in views if not own])
        assert len(student) == len(teacher) == 12 * 8
        assert bool((teacher & ~student).any()) != nested


@pytest.mark.parametrize("micros", [1, 4])
def test_processes_and_micro_batches_draw_what_one_process_draws(mcd, micros):
    """The union of two ranks' noise is that of one process with the whole batch."""
    config = mcd()

    class Trainer:
        accumulate_grad_batches = micros

    class Student(MCD):
        trainer = property(lambda self: Trainer)
        global_step = property(lambda self: 3)
        global_rank = property(lambda self: Trainer.rank)

    model = Student(config, dataloader.get_tokenizer(config))

    def draw(world, rank, batch, micro):
        Trainer.world_size, Trainer.rank = world, rank
        config.loader.batch_size = batch
        noise = StepNoise(model, batch, micro)
        t, s = noise.times(model.curriculum.at(3).delta)
        return torch.cat((noise.u(5).double(), t[:, None]), -1)

    for micro in range(micros):
        whole = draw(1, 0, 8, micro)
        # A sampler deals row i of the batch to rank i % world.
        assert torch.equal(whole[0::2], draw(2, 0, 4, micro))
        assert torch.equal(whole[1::2], draw(2, 1, 4, micro))
    assert not torch.equal(draw(1, 0, 8, 0)[0], draw(1, 0, 8, 0)[1])


@pytest.mark.parametrize(
    "overrides,words",
    [
        (["algo.loss=kl"], ["algo.loss=kl ", "hybrid, hybrid_fwd, kl_fwd"]),
        (["algo.coupling=x"], ["algo.coupling=x", "shared"]),
        (["algo.u_law=x"], ["algo.u_law=x", "lattice"]),
        (["algo.guard=x"], ["algo.guard=x", "stop, warn, off"]),
        (["algo.init_from=x"], ["algo.init_from=x", "ema, raw, scratch"]),
        (["algo.snapshot=x"], ["algo.snapshot=x", "raw, ema, fixed"]),
        (["algo.snapshot=ema", "training.ema=0"], ["algo.snapshot=ema", "training.ema"]),
        (["algo.min_entropy=-1"], ["algo.min_entropy=-1", "null"]),
        (["algo.growth=0"], ["algo.growth=0", "positive"]),
        (["algo.delta0=1/0"], ["algo.delta0=1/0 is no number", "1/20"]),
        (["algo.tau0=warm"], ["algo.tau0=warm is no number"]),
        (["algo.head_chunk=0"], ["algo.head_chunk=0", "at least 1"]),
        (["algo.parameterization=mean"], ["algo.parameterization=mean", "a masked model"]),
        (["algo.delta0=0.9"], ["algo.delta0=0.9", "round 2"]),
        (["trainer.max_steps=13"], ["trainer.max_steps=13", "2 * 6 = 12"]),
        (["algo.teacher_path=''"], ["algo.teacher_path is empty", "scratch"]),
        (["algo.teacher_path=/no/such.ckpt"], ["/no/such.ckpt is no file"]),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(mcd, overrides, words):
    with pytest.raises((ConfigError, CheckpointError)) as error:
        minihost.run(mcd(*overrides))
    assert all(word in str(error.value) for word in words), error.value
    assert str(error.value).endswith((".", ")."))


@pytest.mark.parametrize("override", ["model.hidden_size=64", "data.vocab_size=290"])
def test_a_teacher_of_another_size_is_refused(mcd, override):
    with pytest.raises(CheckpointError, match="does not fit this model .*size mismatch for"):
        minihost.run(mcd(override))


def test_a_run_of_another_algo_is_not_resumed(mcd, teacher_path):
    with pytest.raises(CheckpointError) as error:
        minihost.run(mcd(f"checkpointing.resume_ckpt_path={teacher_path}"))
    assert "was not written by algo=mcd" in str(error.value)
    assert "algo.teacher_path" in str(error.value)


def test_resuming_with_other_rounds_is_refused(mcd, tmp_path):
    fit(mcd("callbacks.checkpoint_every_n_steps.every_n_train_steps=5"))
    path = next((tmp_path / "checkpoints").glob("step-10.ckpt"))
    config = mcd(
        "algo.rounds=3", "algo.steps_per_round=4", f"checkpointing.resume_ckpt_path={path}"
    )
    with pytest.raises(CheckpointError, match="steps_per_round=6, .*_per_round=4"):
        minihost.run(config)


def test_fractions_are_numbers_too(mcd):
    config = mcd("algo.delta0=1/16", "algo.u_law=lattice", "algo.u_step=1/8")
    model = MCD(config, dataloader.get_tokenizer(config))
    assert model.curriculum.delta0 == 1 / 16
    watch = Watch()
    fit(config, watch, model=model)
    assert len(watch.losses) == 12


def test_a_teacher_without_an_average(mcd, compose, tmp_path):
    minihost.run(
        compose(
            "trainer.max_steps=2",
            "training.ema=0",
            f"checkpointing.save_dir={tmp_path / 'teacher'}",
        )
    )
    # The run is shorter than the checkpoint interval: save on the last step.
    folder = tmp_path / "teacher" / "checkpoints"
    path = next(folder.glob("*.ckpt"))
    with pytest.raises(CheckpointError, match="holds no EMA.*init_from=raw"):
        minihost.run(mcd(f"algo.teacher_path={path}"))
    # Also where the host opens the file first, as its own `training.finetune_path`.
    finetune = ("algo.teacher_path=''", f"training.finetune_path={path}")
    with pytest.raises(CheckpointError, match="holds no EMA.*init_from=raw"):
        minihost.run(mcd(*finetune))
    minihost.run(mcd(*finetune, "algo.init_from=raw"))


@pytest.mark.parametrize("index", [None, 10**6, 301, -1])
def test_hosts_masks_that_are_no_tokens_of_the_model_are_refused(mcd, index):
    """The public hosts take a mask behind `vocab_size` for one of the vocabulary."""
    config = mcd()
    model = MCD(config, dataloader.get_tokenizer(config))
    model.mask_index = index
    with pytest.raises(ConfigError, match="data.tokenizer_name_or_path=bpe has mask"):
        model.check_model()
