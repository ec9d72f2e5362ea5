"""Kills: SIGTERM in this process, and a handful of real ones from outside."""

import csv
import logging
import multiprocessing
import os
import signal
from pathlib import Path

import lightning as L
import pytest
import stress
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from runs import Watch, changed, fit, opened

RUN = (
    "loader.batch_size=4",
    "model.dropout=0.2",
    "trainer.val_check_interval=3",
    "trainer.num_sanity_val_steps=1",
)


class Save(Watch):
    """Checkpoints after each validation, by the number of batches before it."""

    def on_validation_end(self, trainer, module):
        folder = module.config.checkpointing.save_dir
        trainer.save_checkpoint(f"{folder}/{len(self.losses)}.ckpt")


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    """(folder, weights, losses) of a run never stopped."""
    folder, watch = tmp_path_factory.mktemp("whole"), Save()
    model, _ = fit(changed(base("mcd"), *RUN, f"checkpointing.save_dir={folder}"), watch)
    return folder, Watch.flat(model), watch.losses


def logged(folder):
    (path,) = folder.glob("lightning_logs/*/metrics.csv")
    return [r["trainer/loss"] for r in csv.DictReader(path.open()) if r["trainer/loss"]]


class Terminate(L.Callback):
    """Sends SIGTERM to its own process in the course of a hook."""

    def __init__(self, hook, at, since=0):
        self.left, self.since = at, since
        setattr(self, hook, self.send)

    def send(self, trainer, *args, **kwargs):
        if not trainer.sanity_checking and trainer.global_step >= self.since:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    "moment, step",
    [
        (("on_train_batch_start", 3), 2),  # the first micro-batch of step 2
        (("on_before_optimizer_step", 3), 3),  # at a round's boundary
        (("on_validation_batch_start", 1), 2),  # in the middle of step 2
        (("on_save_checkpoint", 1, 3), 3),  # while round-1.ckpt is written
    ],
)
def test_sigterm_saves_at_the_next_step(config, whole, tmp_path, caplog, moment, step):
    folder, weights, losses = whole
    before = signal.getsignal(signal.SIGTERM)
    stopped = config(*RUN)
    with caplog.at_level(logging.WARNING), pytest.raises(SIGTERMException) as end:
        fit(stopped, Terminate(*moment))
    assert end.value.code is None  # of the process: status 0
    assert signal.getsignal(signal.SIGTERM) is before
    path = Path(stopped.checkpointing.resume_ckpt_path)
    assert opened(path)["global_step"] == step
    assert logged(tmp_path) == logged(folder)[:step]  # the last step, too
    (message,) = [m for m in caplog.messages if "SIGTERM" in m]
    assert f"stands at step {step} of 6" in message and "the same command" in message
    other, _ = fit(stopped, again := Watch(), path)
    assert again.losses == losses[2 * step :]
    assert torch.equal(weights, Watch.flat(other))
    # Lightning's own checkpoints go on under the same name.
    assert not list(path.parent.glob("last-v*"))


class TerminateAll(Terminate):
    """The workers of data loaders, too, as torchrun does."""

    def send(self, trainer, *args, **kwargs):
        workers = multiprocessing.active_children()
        assert len(workers) == 2
        if trainer.global_step == 1:
            for worker in workers:
                worker.terminate()
        super().send(trainer)


def test_workers_of_data_loaders_live_on(config, whole):
    stopped = config(*RUN, "loader.num_workers=2", "trainer.limit_val_batches=0")
    with pytest.raises(SIGTERMException):
        fit(stopped, TerminateAll("on_train_batch_start", 4))
    assert not multiprocessing.active_children()
    assert opened(stopped.checkpointing.resume_ckpt_path)["global_step"] == 2


@pytest.mark.parametrize("epoch, batches", [(99, 3), (3, 4)])
def test_a_checkpoint_within_a_step_is_that_of_its_start(config, tmp_path, epoch, batches):
    """Written after a validation: resumed, the micro-batches before it come again."""
    more = (*RUN, f"trainer.limit_train_batches={epoch}", "trainer.val_check_interval=1")
    whole, _ = fit(config(*more), watch := Save())
    other, _ = fit(config(*more), again := Watch(), tmp_path / f"{batches}.ckpt")
    # Steps end with every second batch of an epoch, and with its last.
    start = batches - batches % epoch % 2
    assert again.losses == watch.losses[start:]
    assert torch.equal(Watch.flat(whole), Watch.flat(other))


def test_sigterm_in_the_last_step_lets_the_run_end(config):
    before = signal.getsignal(signal.SIGTERM)
    _, trainer = fit(config(*RUN), Terminate("on_before_optimizer_step", 6))
    assert trainer.global_step == 6
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_handful_of_kills(tmp_path, devices):
    """`make stress` in short: real processes, real signals, the same weights."""
    sizes = {"rounds": 2, "steps": 3, "devices": devices}
    fallen = stress.run(tmp_path / "out", kills=3, seed=3, **sizes)
    assert len({k.phase for k in fallen}) == 3
