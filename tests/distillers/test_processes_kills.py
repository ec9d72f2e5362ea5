"""Several processes stopped and killed: nothing is lost, and none is left waiting."""

import os
import signal
import sys
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import several
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from runs import Watch, fit

from mdlm_mcd.distillers import checkpoints

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import stress

pytestmark = several.forks

RUN = [
    "algo=mcd", "algo.init_from=scratch", "algo.rounds=2", "algo.steps_per_round=3",
    "algo.delta0=1/16", "trainer.max_steps=6", "trainer.devices=2",
    "loader.batch_size=2", "model.dropout=0.2", "trainer.val_check_interval=5",
    "callbacks.checkpoint_every_n_steps.every_n_train_steps=2",
]  # fmt: skip
STRATEGIES = {
    "ddp": ("strategy=ddp",),
    "replicated": ("strategy=fsdp", "training.ema=0"),
    "sharded": ("strategy=fsdp", "training.ema=0", "algo.teacher_placement=sharded"),
}
MICRO_BATCHES = 2


class Send(Watch):
    """Sends a signal to process `rank` alone when it gets to a micro-batch."""

    def __init__(self, number, rank, batch):
        super().__init__()
        self.number, self.rank, self.batch = number, rank, batch

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        super().on_train_batch_start(trainer, module, batch, batch_idx)
        if trainer.global_rank == self.rank and len(self.weights) == self.batch + 1:
            os.kill(os.getpid(), self.number)


def last(config):
    return Path(config.checkpointing.resume_ckpt_path)


def train(config, watch=Watch, resume=False):
    fit(config, seen := watch(), str(last(config)) if resume else None)
    return seen.losses


def stopped(config, watch):
    """Losses until SIGTERM ended the process, with status 0."""
    seen = watch()
    with pytest.raises(SIGTERMException) as end:
        fit(config, seen)
    assert end.value.code is None
    return seen.losses


@pytest.fixture(scope="module")
def configure(module_compose, tmp_path_factory):
    def build(strategy):
        folder = tmp_path_factory.mktemp("run")
        return module_compose(
            *RUN, *STRATEGIES[strategy], f"checkpointing.save_dir={folder}"
        )

    return build


@pytest.fixture(scope="module")
def whole(configure, tmp_path_factory):
    """`whole(strategy)`: a run never stopped, (config, losses of each process)."""
    runs = {}

    def answer(strategy):
        if strategy not in runs:
            config = configure(strategy)
            answers = tmp_path_factory.mktemp("whole") / "answers"
            runs[strategy] = (
                config, several.run(2, partial(train, config), answers)
            )  # fmt: skip
        return runs[strategy]

    return answer


def go_on(config, whole, step, folder):
    """Resumed from `step`, the run ends as the whole one, bit for bit."""
    assert torch.load(last(config), weights_only=True)["global_step"] == step
    reference, losses = whole
    answers = several.run(2, partial(train, config, resume=True), folder)
    assert answers == [x[MICRO_BATCHES * step :] for x in losses]
    for name in ("last.ckpt", "round-1.ckpt", "round-2.ckpt"):
        one, other = (
            torch.load(last(c).with_name(name), weights_only=True)
            for c in (reference, config)
        )
        for key in stress.COMPARED:
            assert stress.differs(one.get(key), other.get(key), key) is None, name


@pytest.mark.parametrize("strategy, rank", [("ddp", 1), ("replicated", 0)])
def test_all_leave_when_one_is_asked(configure, whole, tmp_path, strategy, rank):
    reference, losses = whole(strategy)
    config = configure(strategy)
    # In the first of two micro-batches of step 2.
    watch = partial(Send, signal.SIGTERM, rank, 2)
    answers = several.run(2, partial(stopped, config, watch), tmp_path / "stopped")
    assert answers == [x[: 2 * MICRO_BATCHES] for x in losses]
    go_on(config, (reference, losses), 2, tmp_path / "resumed")


@pytest.mark.parametrize("rank", [0, 1])
def test_one_is_killed(configure, whole, tmp_path, rank):
    """The other one ends, too, and in an error."""
    config = configure("ddp")
    watch = partial(Send, signal.SIGKILL, rank, 7)
    codes = [1, 1]
    codes[rank] = -signal.SIGKILL
    with pytest.raises(RuntimeError, match=f"exit codes {codes}".replace("[", r"\[")):
        several.run(2, partial(train, config, watch), tmp_path / "killed")
    go_on(config, whole("ddp"), 2, tmp_path / "resumed")


def killed_in_writing(config, saves):
    """Process 0 dies within the checkpoint after so many."""
    write, pieces = checkpoints.Recorded.write, []

    def dying(self, data):
        if self.file.name not in pieces[-1:]:
            pieces.append(self.file.name)
        if len(pieces) > saves and self.file.tell() > 10_000:
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, data)

    checkpoints.Recorded.write = dying
    train(config)
