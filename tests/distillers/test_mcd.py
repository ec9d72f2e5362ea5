"""MCD in the minihost: its teacher's start, ablations, what is logged and guarded."""

import shutil
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from runs import Watch, built, fit, opened, shaken, student_class

from mdlm_mcd.distillers.callbacks.monitor import Monitor
from mdlm_mcd.errors import CheckpointError, DivergenceError
from mdlm_mcd.minihost import dataloader
from mdlm_mcd.minihost import main as minihost

MCD = student_class("mcd")
ONE = ("algo.rounds=1", "algo.steps_per_round=1", "trainer.max_steps=1")


def shadow(path):
    return torch.cat([p.flatten() for p in opened(path)["ema"]["shadow_params"]])


# Where it starts ----------------------------------------------------------------------


def test_starts_from_the_teachers_average_or_raw_weights(config, teacher_path):
    saved = opened(teacher_path)["state_dict"]
    raw = torch.cat([v.flatten() for k, v in saved.items() if "inv_freq" not in k])
    assert not torch.equal(shadow(teacher_path), raw)
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
    # Its own EMA starts there, with the configured decay and a count of its own.
    assert model.ema.decay == 0.25 and model.ema.num_updates == 1
    assert model.fast_forward_epochs is None and model.fast_forward_batches is None


# The teacher of a round ---------------------------------------------------------------


@pytest.mark.parametrize("snapshot", ["raw", "ema", "fixed"])
def test_the_teacher_of_a_round(config, snapshot):
    model = built(config(f"algo.snapshot={snapshot}", "algo.init_from=scratch"))
    model.begin_round(0)
    first = Watch.flat(model.teacher.backbone)
    for p in model.backbone.parameters():
        torch.nn.init.normal_(p)
    student, average = Watch.flat(model.backbone), [p.flatten() for p in model.ema.shadow_params]
    model.begin_round(1)
    wanted = {"raw": student, "ema": torch.cat(average), "fixed": first}[snapshot]
    assert torch.equal(Watch.flat(model.teacher.backbone), wanted) and model.teacher.round == 1
    assert torch.equal(Watch.flat(model.backbone), student)


def test_an_average_of_halves_is_kept_in_float32(config):
    """Where the weights are bfloat16, a step of 1 - decay would vanish."""
    model, _ = fit(config("trainer.precision=bf16-true", "training.ema=0.9999", *ONE))
    assert next(model.backbone.parameters()).dtype == torch.bfloat16
    assert {p.dtype for p in model.ema.shadow_params} == {torch.float32}


# What a run reports ------------------------------------------------------------------


def test_the_guard_stops_warns_or_is_off(config, caplog):
    # Epochs of three micro-batches, four to a step: Lightning steps on the third.
    short = ("loader.batch_size=2", "trainer.limit_train_batches=3")
    with pytest.raises(DivergenceError, match=r"=kl_bwd is .*step 0 \(round 1.*loss=hybrid"):
        fit(config("algo.loss=kl_bwd", *short))
    for mode, count in (("warn", 1), ("false", 0)):
        caplog.clear()
        fit(config("algo.loss=kl_bwd", f"algo.guard={mode}"), watch := Watch())
        assert len(watch.losses) == 6 and max(watch.losses) > 1000
        assert sum("kl_bwd" in message for message in caplog.messages) == count


def gradient(module):
    return torch.cat([p.grad.flatten() for p in module.backbone.parameters()])


def test_what_a_run_reports(config, caplog):
    """The gradient's norm before clipping, and an entropy floor once a round."""
    norms = []

    class Norms(L.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            norms.append(float(gradient(module).norm()))

        def on_train_batch_end(self, trainer, *args):
            logged = float(trainer.callback_metrics["mcd/grad_norm"])
            assert logged == pytest.approx(norms[-1], rel=1e-5)

    fit(config("trainer.gradient_clip_val=1e-3", "algo.min_entropy=9"), Norms())
    assert len(norms) == 6 and min(norms) > 1e-3
    first, _ = [m for m in caplog.messages if "min_entropy" in m]
    assert "step 0 (round 1)" in first


@pytest.mark.parametrize("lengths", [(16, 16), (5, 16), (16, 5)])
def test_micro_batches_as_long_as_their_longest_rows(config, lengths):
    """As collators of transformers make them: one gradient, of all tokens of the step."""
    sums, found = [], []

    class Student(student_class("mcd")):
        def distil(self, *given):
            parts = super().distil(*given)
            trained = list(self.backbone.parameters())
            grads = torch.autograd.grad(parts.loss, trained, materialize_grads=True)
            sums.append((torch.cat([g.flatten() for g in grads]), int(given[2].sum())))
            return super().distil(*given)

    class Gradients(L.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            found.append(gradient(module))

    more = ("algo.init_from=scratch", "loader.batch_size=4", "trainer.gradient_clip_val=null")
    model, cut = built(given := config(*ONE, *more), Student), iter(lengths)
    shaken(model)
    train, _ = dataloader.get_dataloaders(given, model.tokenizer)

    def collate(rows):
        batch, length = torch.utils.data.default_collate(rows), next(cut, 16)
        return {name: tensor[:, :length] for name, tensor in batch.items()}

    train.collate_fn = collate
    trainer = minihost.make_trainer(given, use_distributed_sampler=False, limit_val_batches=0)
    trainer.callbacks.insert(0, Gradients())
    trainer.fit(model, train)
    total = sum(grad for grad, _ in sums) / sum(tokens for _, tokens in sums)
    assert len(sums) == 2 and sums[0][1] == 4 * lengths[0]
    torch.testing.assert_close(found[0], total, rtol=1e-4, atol=1e-7)


def test_what_is_logged_is_of_the_step_and_not_of_its_last_micro_batch(config):
    """Times are dealt in order: the last of eight micro-batches has the fewest masks."""
    parts, logged = [], []

    class Student(student_class("mcd")):
        def distil(self, *given):
            parts.append(super().distil(*given))
            return parts[-1]

    class Logged(L.Callback):
        def on_train_batch_end(self, trainer, *args):
            if not trainer.fit_loop._should_accumulate():
                logged.append({k: float(v) for k, v in trainer.callback_metrics.items()})

    given = config("loader.batch_size=1")
    fit(given, Logged(), model=built(given, Student))
    assert len(parts) == 8 * len(logged) == 48
    tokens = 8 * given.model.length
    for i, found in enumerate(logged):
        step = parts[8 * i : 8 * i + 8]
        rows = sum(p.distil_rows + p.reveal_rows for p in step)
        entropy, total = (
            float(sum(getattr(p, name).detach() for p in step)) for name in ("entropy", "loss")
        )
        assert found["mcd/student_entropy"] == pytest.approx(entropy / rows, rel=1e-5)
        assert found["mcd/rows_distil"] + found["mcd/rows_reveal"] == pytest.approx(rows / tokens)
        assert found["trainer/loss"] == pytest.approx(total / tokens, rel=1e-5)


def test_a_step_that_learns_nothing_says_nothing_of_the_entropy():
    metrics = {f"mcd/{name}": 0.0 for name in ("rows_distil", "rows_reveal", "student_entropy")}
    trainer, watched = SimpleNamespace(callback_metrics=metrics, global_step=1), Monitor("mcd", 3.0)
    watched._watch(trainer, 0)
    assert watched.entropy is None


def test_a_run_with_frozen_parameters_goes_on(config, tmp_path):
    class Freeze(L.Callback):
        def setup(self, trainer, module, stage):
            module.backbone.vocab_embed.requires_grad_(False)

    whole, _ = fit(config(), Freeze())
    again, _ = fit(config(), Freeze(), tmp_path / "checkpoints" / "round-1.ckpt")
    assert torch.equal(Watch.flat(whole), Watch.flat(again))


# Refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1])
def test_an_average_of_another_model_or_of_none_is_refused(trained, config, tmp_path, kept):
    """A host would cut it to fit, or show a random one."""
    saved, path = opened(trained("mcd")[0] / "step-4.ckpt"), tmp_path / "fewer.ckpt"
    saved["ema"]["shadow_params"] = saved["ema"]["shadow_params"][:kept]
    torch.save(saved, path)
    shown = ("mode=ppl_eval", f"eval.checkpoint_path={path}")
    assert minihost.run(config(*shown, "training.ema=0"))["val/nll"] > 0
    with pytest.raises(CheckpointError, match=f"an EMA of {kept} tensors .*set training.ema=0"):
        minihost.run(config(*shown))


@pytest.mark.slow  # compiles for a minute
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("algo", ["mcd", "mmd"])
def test_a_compiled_run_has_the_same_losses_and_names(config, tmp_path, algo):
    """Its blocks, its teacher's and the loss; a plain host opens its checkpoint."""
    losses = []
    for compiled in (False, True):
        watch = Watch()
        model, _ = fit(config(f"algo.compile={compiled}", "model.dropout=0", algo=algo), watch)
        losses.append(watch.losses)
        for network in (model.backbone, model.teacher.backbone):
            blocks = [block._compiled_call_impl is not None for block in network.blocks]
            assert blocks == [compiled] * len(blocks)
    assert len(losses[0]) > 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)  # mmd: 2e-4 after six steps
    names = opened(tmp_path / "checkpoints" / "round-2.ckpt")["state_dict"]
    assert names.keys() == model.state_dict().keys()
    assert not any("_orig_mod" in name for name in names)
