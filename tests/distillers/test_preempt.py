"""Kills: SIGTERM in this process, and a handful of real ones from outside."""

import csv
import functools
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
from runs import Watch, fit

from mdlm_mcd.distillers.callbacks import preemption


@pytest.fixture(scope="module")
def config(module_compose, tmp_path_factory):
    """`config(*overrides)`: of a run in a folder of its own."""

    def build(*more):
        return module_compose(
            "algo=mcd",
            "algo.init_from=scratch",
            "algo.rounds=2",
            "algo.steps_per_round=3",
            "trainer.max_steps=6",
            "algo.delta0=1/16",
            "loader.batch_size=4",
            "model.dropout=0.2",
            "trainer.val_check_interval=3",
            f"checkpointing.save_dir={tmp_path_factory.mktemp('run')}",
            *more,
        )

    return build


class Save(Watch):
    """Checkpoints after each validation, by the number of batches before it."""

    def on_validation_end(self, trainer, module):
        folder = module.config.checkpointing.save_dir
        trainer.save_checkpoint(f"{folder}/{len(self.losses)}.ckpt")


@pytest.fixture(scope="module")
def whole(config):
    """`whole(*overrides)`: (config, weights, losses) of a run never stopped."""

    @functools.cache
    def run(*more):
        model, _ = fit(built := config(*more), watch := Save())
        return built, Watch.flat(model), watch.losses

    return run


def last(config):
    return Path(config.checkpointing.resume_ckpt_path)


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
        (("on_train_batch_start", 1), 1),
        (("on_train_batch_start", 3), 2),  # the first micro-batch of step 2
        (("on_before_optimizer_step", 3), 3),  # at a round's boundary
        (("on_validation_batch_start", 1), 2),  # in the middle of step 2
        (("on_save_checkpoint", 1, 3), 3),  # while round-1.ckpt is written
    ],
)
def test_sigterm_saves_at_the_next_step(config, whole, caplog, moment, step):
    _, weights, losses = whole()
    before = signal.getsignal(signal.SIGTERM)
    stopped = config()
    with caplog.at_level(logging.WARNING), pytest.raises(SIGTERMException) as end:
        fit(stopped, Terminate(*moment))
    assert end.value.code is None  # of the process: status 0
    assert signal.getsignal(signal.SIGTERM) is before
    path = last(stopped)
    assert torch.load(path, weights_only=True)["global_step"] == step
    (said,) = [m for m in caplog.messages if "SIGTERM" in m]
    assert f"stands at step {step} of 6" in said and "the same command" in said
    again = Watch()
    other, _ = fit(stopped, again, ckpt_path=str(path))
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
    _, weights, losses = whole()
    stopped = config("loader.num_workers=2", "trainer.limit_val_batches=0")
    with pytest.raises(SIGTERMException):
        fit(stopped, TerminateAll("on_train_batch_start", 4))
    assert not multiprocessing.active_children()
    path = last(stopped)
    assert torch.load(path, weights_only=True)["global_step"] == 2
    other, _ = fit(stopped, again := Watch(), ckpt_path=str(path))
    assert again.losses == losses[4:]
    assert torch.equal(weights, Watch.flat(other))


def test_a_stopped_run_has_logged_its_last_step(config, whole):
    def losses(run):
        folder = Path(run.checkpointing.save_dir)
        (path,) = folder.glob("lightning_logs/*/metrics.csv")
        rows = csv.DictReader(path.open())
        return [r["trainer/loss"] for r in rows if r["trainer/loss"]]

    stopped = config()
    with pytest.raises(SIGTERMException):
        fit(stopped, Terminate("on_train_batch_start", 3))
    assert losses(stopped) == losses(whole()[0])[:2]


@pytest.mark.parametrize("epoch, batches", [(99, 3), (3, 4), (3, 3)])
def test_a_checkpoint_within_a_step_is_that_of_its_start(whole, config, epoch, batches):
    """Written after a validation: resumed, the micro-batches before it come again."""
    more = (f"trainer.limit_train_batches={epoch}", "trainer.val_check_interval=1")
    before, weights, losses = whole(*more)
    path = f"{before.checkpointing.save_dir}/{batches}.ckpt"
    other, _ = fit(config(*more), again := Watch(), ckpt_path=path)
    # Steps end with every second batch of an epoch, and with its last.
    start = batches - batches % epoch % 2
    assert again.losses == losses[start:]
    assert torch.equal(weights, Watch.flat(other))


def test_sigterm_in_the_last_step_lets_the_run_end(config):
    before = signal.getsignal(signal.SIGTERM)
    _, trainer = fit(config(), Terminate("on_before_optimizer_step", 6))
    assert trainer.global_step == 6
    assert signal.getsignal(signal.SIGTERM) is before


def test_all_processes_leave_when_one_is_asked():
    class Strategy:
        def __init__(self, others):
            self.others = others

        def reduce_boolean_decision(self, decision, all):
            assert not all
            return decision or self.others

    class Trainer:
        world_size, max_steps, global_step = 2, 9, 4
        checkpoint_callbacks, saved = (), None

        def save_checkpoint(self, path):
            self.saved = path

    for asked, others in ((True, False), (False, True), (False, False)):
        trainer, callback = Trainer(), preemption.Preemption("folder")
        trainer.strategy = Strategy(others)
        callback.asked = asked
        callback.on_train_batch_end(trainer, None)
        leaves = asked or others
        assert trainer.saved == (os.path.join("folder", "last.ckpt") if leaves else None)
        if leaves:
            with pytest.raises(SIGTERMException):
                callback.on_train_batch_start()
        else:
            callback.on_train_batch_start()


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_handful_of_kills(tmp_path, devices):
    """`make stress` in short: real processes, real signals, the same weights."""
    sizes = {"rounds": 2, "steps": 3, "devices": devices}
    fallen = stress.run(tmp_path / "out", kills=3, seed=3, **sizes)
    assert len({k.phase for k in fallen}) == 3
