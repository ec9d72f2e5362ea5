"""Several processes stopped and killed: nothing is lost, and none is left waiting."""

import functools
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
import several
import stress
from lightning.pytorch.utilities.exceptions import SIGTERMException
from runs import SHORT, Watch, fit, opened

from mdlm_mcd.distillers import checkpoint_io

pytestmark = [several.forks, pytest.mark.slow]

RUN = [
    "algo=mcd",
    *SHORT,
    "algo.init_from=scratch",
    "algo.delta0=1/16",
    "trainer.num_sanity_val_steps=1",
    "trainer.devices=2",
    "loader.batch_size=2",
    "model.dropout=0.2",
    "trainer.val_check_interval=5",
    "callbacks.checkpoint_every_n_steps.every_n_train_steps=2",
]
STRATEGIES = {
    "ddp": ("strategy=ddp",),
    "fsdp": (
        "strategy=fsdp",
        "strategy._target_=several.ShardedStrategy",
        "training.ema=0",
        "algo.teacher_placement=sharded",
    ),
}
MICRO_BATCHES = 2


class Terminate(Watch):
    """Sends SIGTERM to process `rank` alone at the start of a micro-batch."""

    def __init__(self, rank, batch):
        super().__init__()
        self.rank, self.batch = rank, batch

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        super().on_train_batch_start(trainer, module, batch, batch_idx)
        if trainer.global_rank == self.rank and len(self.weights) == self.batch + 1:
            os.kill(os.getpid(), signal.SIGTERM)


def last(config):
    return Path(config.checkpointing.resume_ckpt_path)


def train(config, resume=False):
    fit(config, seen := Watch(), last(config) if resume else None)
    return seen.losses


def stopped(config, rank, batch):
    """Losses until SIGTERM ended the process, with status 0."""
    with pytest.raises(SIGTERMException) as end:
        fit(config, seen := Terminate(rank, batch))
    assert end.value.code is None
    return seen.losses


@pytest.fixture(scope="module")
def configure(module_compose, tmp_path_factory):
    def build(strategy):
        folder = tmp_path_factory.mktemp("run")
        return module_compose(*RUN, *STRATEGIES[strategy], f"checkpointing.save_dir={folder}")

    return build


@pytest.fixture(scope="module")
def whole(configure, tmp_path_factory):
    """`whole(strategy)`: a run never stopped, (config, losses of each process)."""

    @functools.cache
    def run(strategy):
        config, results = configure(strategy), tmp_path_factory.mktemp("whole") / "results"
        return config, several.run(2, partial(train, config), results)

    return run


def go_on(config, whole, step, folder):
    """Resumed from `step`, the run ends as the whole one, bit for bit."""
    assert opened(last(config))["global_step"] == step
    reference, losses = whole
    results = several.run(2, partial(train, config, resume=True), folder)
    assert results == [x[MICRO_BATCHES * step :] for x in losses]
    for name in ("last.ckpt", "round-1.ckpt", "round-2.ckpt"):
        one, other = (opened(last(c).with_name(name)) for c in (reference, config))
        for key in stress.COMPARED:
            assert stress.differs(one.get(key), other.get(key), key) is None, name


@pytest.mark.parametrize(
    "strategy, rank", [("ddp", 1), pytest.param("fsdp", 0, marks=several.fsdp)]
)
def test_all_leave_when_one_is_asked(configure, whole, tmp_path, strategy, rank):
    reference, losses = whole(strategy)
    config = configure(strategy)
    # In the first of two micro-batches of step 2.
    results = several.run(2, partial(stopped, config, rank, 2), tmp_path / "stopped")
    assert results == [x[: 2 * MICRO_BATCHES] for x in losses]
    go_on(config, (reference, losses), 2, tmp_path / "resumed")


def killed_in_writing(config):
    """Process 0 dies within the second `last.ckpt`."""
    write, seen = checkpoint_io.Recorded.write, set()

    def dying(self, data):
        if self.file.name.endswith("last.ckpt.part"):
            seen.add(self)
            if len(seen) == 2 and self.file.tell() > 10_000:
                os.kill(os.getpid(), signal.SIGKILL)
        return write(self, data)

    checkpoint_io.Recorded.write = dying
    train(config)


@several.fsdp
def test_sharded_weights_are_killed_in_writing(configure, whole, tmp_path):
    config = configure("fsdp")
    with pytest.raises(RuntimeError, match=r"exit codes \[-9, 1\]"):
        several.run(2, partial(killed_in_writing, config), tmp_path / "killed")
    assert list(last(config).parent.glob("*.part"))
    go_on(config, whole("fsdp"), 2, tmp_path / "resumed")


@several.fsdp
def test_sharded_weights_are_damaged(configure, whole, tmp_path):
    """FSDP reads by itself: a bit that is wrong has to be found all the same."""
    config, (reference, losses) = configure("fsdp"), whole("fsdp")
    shutil.copytree(last(reference).parent, last(config).parent)
    data = bytearray(last(config).read_bytes())
    data[len(data) // 2] ^= 1
    last(config).write_bytes(data)
    results = several.run(2, partial(train, config, resume=True), tmp_path / "again")
    # The one before it is that of step 4.
    assert results == [x[MICRO_BATCHES * 4 :] for x in losses]
