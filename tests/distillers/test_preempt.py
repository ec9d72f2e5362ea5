"""Kills: SIGTERM in this process, and a handful of real ones from outside."""

import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path

import lightning as L
import pytest
import stress
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from runs import Watch, changed, fit, logged, opened

from mdlm_mcd.curriculum import Curriculum
from mdlm_mcd.distillers.callbacks.saving import SaveRounds


class Terminate(L.Callback):
    """Sends SIGTERM to its own process in the course of a hook, workers first."""

    def __init__(self, hook, at, since=0, workers=0):
        self.left, self.since, self.workers = at, since, workers
        setattr(self, hook, self.send)

    def send(self, trainer, *args, **kwargs):
        if trainer.sanity_checking or trainer.global_step < self.since:
            return
        self.left -= 1
        if self.left == 0:
            workers = multiprocessing.active_children()
            assert len(workers) == self.workers
            for worker in workers:
                worker.terminate()
            os.kill(os.getpid(), signal.SIGTERM)


def losses(folder):
    return [row["trainer/loss"] for row in logged(folder, "trainer/loss")]


# In the middle of step 2; and at a round's boundary, as round-1.ckpt is written.
@pytest.mark.parametrize(
    "moment, step", [(("on_validation_batch_start", 1), 2), (("on_save_checkpoint", 1, 3), 3)]
)
def test_sigterm_saves_at_the_next_step(trained, tmp_path, caplog, moment, step):
    whole, stopped, watch, model = trained("mcd")
    before = signal.getsignal(signal.SIGTERM)
    given = (f"checkpointing.save_dir={tmp_path}", "trainer.num_sanity_val_steps=1")
    stopped = changed(stopped, *given)
    with caplog.at_level(logging.WARNING), pytest.raises(SIGTERMException) as end:
        fit(stopped, Terminate(*moment))
    assert end.value.code is None  # of the process: status 0
    assert signal.getsignal(signal.SIGTERM) is before
    path = Path(stopped.checkpointing.resume_ckpt_path)
    assert opened(path)["global_step"] == step
    assert losses(tmp_path) == losses(whole.parent)[:step]  # the last step, too
    (message,) = [m for m in caplog.messages if "SIGTERM" in m]
    assert f"stands at step {step} of 6" in message and "the same command" in message
    other, _ = fit(stopped, again := Watch(), path)
    assert again.losses == watch.losses[2 * step :]
    assert torch.equal(Watch.flat(model), Watch.flat(other))
    # Lightning's own checkpoints go on under the same name.
    assert not list(path.parent.glob("last-v*"))


def test_workers_of_data_loaders_live_on(config):
    """torchrun signals them, too."""
    stopped = config("loader.num_workers=2", "trainer.limit_val_batches=0")
    with pytest.raises(SIGTERMException):
        fit(stopped, Terminate("on_train_batch_start", 2, workers=2))
    assert not multiprocessing.active_children()
    assert opened(stopped.checkpointing.resume_ckpt_path)["global_step"] == 2


def work(begun):
    begun.set()
    time.sleep(60)


def leave_a_worker(context):
    SaveRounds("folder", Curriculum()).setup(None, None, "fit")
    begun = context.Event()
    context.Process(target=work, args=(begun,), daemon=True).start()
    begun.wait()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked")
def test_a_process_ends_with_the_workers_that_an_error_left():
    """They take no SIGTERM, by which Python ends them before it waits for them."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=leave_a_worker, args=(context,))
    process.start()
    process.join(20)
    process.kill()
    assert process.exitcode == 0


def test_a_checkpoint_within_a_step_is_that_of_its_start(config, tmp_path):
    """Written after a validation: resumed, the micro-batches before it come again."""

    class Save(Watch):
        def on_validation_end(self, trainer, module):
            trainer.save_checkpoint(f"{tmp_path}/{len(self.losses)}.ckpt")

    epochs = ("trainer.limit_train_batches=3", "trainer.val_check_interval=1")
    given = config("loader.batch_size=4", "model.dropout=0.2", *epochs)
    whole, _ = fit(given, watch := Save())
    # A step ends with the second batch of an epoch, and with its third: the fourth begins one.
    other, _ = fit(given, again := Watch(), tmp_path / "4.ckpt")
    assert again.losses == watch.losses[3:]
    assert torch.equal(Watch.flat(whole), Watch.flat(other))


def test_sigterm_in_the_last_step_lets_the_run_end(config):
    before = signal.getsignal(signal.SIGTERM)
    _, trainer = fit(config(), Terminate("on_before_optimizer_step", 6))
    assert trainer.global_step == 6
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_handful_of_kills(tmp_path, devices):
    """`make stress` in short: real processes, real signals, the same weights."""
    sizes = {"rounds": 2, "steps": 3, "devices": devices}
    fallen = stress.run(tmp_path / "out", kills=3, seed=3, **sizes)
    assert len({k.phase for k in fallen}) == 3
