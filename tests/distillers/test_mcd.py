"""MCD in the minihost: its teacher's start, ablations, what is logged and guarded."""

import logging
import shutil

import pytest
import torch
from runs import Watch, built, fit, opened, student_class

from mdlm_mcd.errors import CheckpointError, ConfigError, DivergenceError
from mdlm_mcd.minihost import main as minihost

MCD = student_class("mcd")
ONE = ("algo.rounds=1", "algo.steps_per_round=1", "trainer.max_steps=1")


def shadow(path):
    return torch.cat([p.flatten() for p in opened(path)["ema"]["shadow_params"]])


# Where it starts ----------------------------------------------------------------------


def test_starts_from_the_teachers_average(config, teacher_path):
    saved = opened(teacher_path)["state_dict"]
    raw = torch.cat([v.flatten() for k, v in saved.items() if "inv_freq" not in k])
    average = shadow(teacher_path)
    assert not torch.equal(average, raw)
    model, _ = fit(config("training.ema=0.5", *ONE), watch := Watch())
    assert torch.equal(watch.weights[0], average)
    # Its own EMA starts there, with the configured decay and a count of its own.
    assert model.ema.decay == 0.5 and model.ema.num_updates == 1
    fit(config("algo.init_from=raw", *ONE), watch := Watch())
    assert torch.equal(watch.weights[0].sort().values, raw.sort().values)


def test_finetune_path_is_the_default_teacher(config, teacher_path):
    """Hosts open that file first; what that would leave behind does not matter."""
    given = ("algo.teacher_path=", f"training.finetune_path={teacher_path}", "training.ema=0.25")
    given = config(*given, *ONE)
    model = minihost.load_from_checkpoint(MCD, str(teacher_path), given, built(given).tokenizer)
    # It is not opened at all: torch refuses such files of the public hosts.
    assert model.ema.decay == 0.25 and model.ema.num_updates == 0
    model.ema.decay, model.ema.num_updates = 0.9, 60
    model.fast_forward_epochs = model.fast_forward_batches = 60
    fit(given, watch := Watch(), model=model)
    assert torch.equal(watch.weights[0], shadow(teacher_path))
    assert model.ema.decay == 0.25 and model.ema.num_updates == 1
    assert model.fast_forward_epochs is None and model.fast_forward_batches is None


# The teacher of a round ---------------------------------------------------------------


def test_a_fixed_teacher_serves_in_every_round(config, tmp_path):
    every = "callbacks.checkpoint_every_n_steps."
    given = ("algo.snapshot=fixed", f"{every}every_n_train_steps=1", f"{every}save_top_k=-1")
    model, _ = fit(config(*given), watch := Watch())
    assert watch.rounds == [0] * 3 + [1] * 3
    # Also across a stop, in a round or between two.
    runs = [watch]
    for step in (3, 4):
        path = tmp_path / "checkpoints" / f"step-{step}.ckpt"
        where = f"checkpointing.save_dir={tmp_path}/{step}"
        other, _ = fit(config(*given, where), watch := Watch(), path)
        assert torch.equal(Watch.flat(model), Watch.flat(other))
        runs.append(watch)
    assert all(torch.equal(x, runs[0].weights[0]) for run in runs for x in run.teachers)


def test_a_teacher_from_the_average(config):
    averages = []

    class Averages(Watch):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            super().on_train_batch_start(trainer, module, batch, batch_idx)
            averages.append(torch.cat([p.flatten().clone() for p in module.ema.shadow_params]))

    fit(config("algo.snapshot=ema", "training.ema=0.5"), watch := Averages())
    assert torch.equal(watch.teachers[3], averages[3])
    assert not torch.equal(watch.teachers[3], watch.weights[3])
    # Taking it leaves the student as it was.
    assert all(map(torch.equal, watch.after_step, watch.weights[1:]))


def test_an_average_of_halves_is_kept_in_float32(config):
    """Where the weights are bfloat16, a step of 1 - decay would vanish."""
    model, _ = fit(config("trainer.precision=bf16-true", "training.ema=0.9999", *ONE))
    assert next(model.backbone.parameters()).dtype == torch.bfloat16
    assert {p.dtype for p in model.ema.shadow_params} == {torch.float32}


# Its views ----------------------------------------------------------------------------


def test_padding_costs_nothing_and_is_not_counted(config):
    """Rows of padding are not projected; the loss is per valid token."""
    seen = []

    class Student(MCD):
        def distil(self, stage, x0, valid, condition, noise):
            parts = super().distil(stage, x0, valid, condition, noise)
            seen.append((parts, valid))
            return parts

    given = config("data.wrap=false", "model.length=48", "algo.init_from=scratch")
    fit(given, watch := Watch(), model=built(given, Student))
    assert len(seen) == 6 and any((valid == 0).any() for _, valid in seen)
    for (parts, valid), loss in zip(seen, watch.losses, strict=True):
        assert parts.distil_rows + parts.reveal_rows <= valid.sum()
        assert (parts.per_token[valid == 0] == 0).all()
        expected = (parts.distil + parts.reveal) / valid.sum()
        assert loss == pytest.approx(float(expected), rel=1e-5)
    # At t near 1 nearly all valid tokens are masked, so the bound is nearly met.
    assert max((p.distil_rows + p.reveal_rows) / v.sum() for p, v in seen) > 0.4


def test_the_guard_lets_good_losses_pass(config):
    fit(config("algo.loss=mse", "algo.growth=1"), watch := Watch())
    assert len(watch.losses) == 6


# What a run reports ------------------------------------------------------------------


def test_the_guard_stops_warns_or_is_off(config, caplog):
    # Epochs of three micro-batches, four to a step: Lightning steps on the third.
    short = ("loader.batch_size=2", "trainer.limit_train_batches=3")
    for more in ((), short):
        with pytest.raises(DivergenceError, match=r"=kl_bwd is .*step 0 \(round 1.*loss=hybrid"):
            fit(config("algo.loss=kl_bwd", *more))
    for mode, count in (("warn", 1), ("false", 0)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "mdlm_mcd"):
            fit(config("algo.loss=kl_bwd", f"algo.guard={mode}"), watch := Watch())
        assert len(watch.losses) == 6 and max(watch.losses) > 1000
        assert sum("kl_bwd" in r.getMessage() for r in caplog.records) == count


def test_an_entropy_floor_warns_once_a_round(config, caplog):
    for least, count in (("9", 2), ("0.001", 0)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "mdlm_mcd"):
            fit(config(f"algo.min_entropy={least}"))
        found = [r.getMessage() for r in caplog.records if "min_entropy" in r.getMessage()]
        assert len(found) == count
        assert not found or "(round 1), below algo.min_entropy=9" in found[0]


def test_the_gradients_norm_is_logged_before_clipping(config):
    norms = []

    class Norms(Watch):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            grads = [p.grad.flatten() for p in module.backbone.parameters()]
            norms.append(float(torch.cat(grads).norm()))

        def on_train_batch_end(self, trainer, *args):
            logged = float(trainer.callback_metrics["mcd/grad_norm"])
            assert logged == pytest.approx(norms[-1], rel=1e-5)

    fit(config("trainer.gradient_clip_val=1e-3"), Norms())
    assert len(norms) == 6 and min(norms) > 1e-3


# Refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "override, words",
    [
        ("model.hidden_size=64", "does not fit this model .*size mismatch for"),
        ("data.vocab_size=290", "size mismatch for"),
        ("checkpointing.resume_ckpt_path={}", "not written by algo=mcd.*algo.teacher_path"),
    ],
)
def test_a_run_that_does_not_fit_its_teacher(config, teacher_path, override, words):
    with pytest.raises(CheckpointError, match=words):
        minihost.run(config(override.format(teacher_path)))


@pytest.mark.parametrize("algo", ["mcd", "dcd"])
def test_teachers_of_the_other_kind_are_refused(config, teacher_of, algo):
    path = teacher_of("mdlm" if algo == "dcd" else "duo_base")
    words = "=subs.*uniform-state" if algo == "dcd" else "=mean, and a masked"
    with pytest.raises(CheckpointError, match=f"{path} was trained under .*{words}"):
        minihost.run(config(f"algo.teacher_path={path}", algo=algo))


@pytest.mark.parametrize("index", [None, 10**6, 301, -1])
def test_a_mask_that_is_no_token_of_the_model_is_refused(config, index):
    """The public hosts take a mask behind `vocab_size` for one of the vocabulary."""
    model = built(config())
    model.mask_index = index
    with pytest.raises(ConfigError, match="data.tokenizer_name_or_path=bpe has mask"):
        model.check_model()


def test_a_student_without_an_average_is_not_shown_with_a_random_one(config, tmp_path):
    fit(config("training.ema=0"))
    path = tmp_path / "checkpoints" / "round-2.ckpt"
    shown = ("mode=ppl_eval", f"eval.checkpoint_path={path}")
    assert minihost.run(config(*shown, "training.ema=0"))["val/nll"] > 0
    with pytest.raises(CheckpointError, match="holds no EMA.*set training.ema=0"):
        minihost.run(config(*shown))
    with pytest.raises(CheckpointError, match="training.ema=0, .*training.ema=0.99"):
        minihost.run(config(f"checkpointing.resume_ckpt_path={path}"))


@pytest.mark.slow  # compiles for a minute
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_has_the_same_losses_and_names(config, tmp_path):
    """Its blocks, its teacher's and the loss; a plain host opens its checkpoint."""
    losses = []
    for compiled in (False, True):
        watch = Watch()
        model, _ = fit(config(f"algo.compile={compiled}", "model.dropout=0"), watch)
        losses.append(watch.losses)
        for network in (model.backbone, model.teacher.backbone):
            blocks = [block._compiled_call_impl is not None for block in network.blocks]
            assert blocks == [compiled] * len(blocks)
    assert len(losses[0]) > 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    names = opened(tmp_path / "checkpoints" / "round-2.ckpt")["state_dict"]
    assert names.keys() == model.state_dict().keys()
    assert not any("_orig_mod" in name for name in names)
