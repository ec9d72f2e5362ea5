"""Correct Lightning's counts of batches, and begin a host's data where a run stood.

Hosts rewrite these by a formula that rests on every epoch being a whole number of optimizer
steps. And Lightning also writes checkpoints between the micro-batches of a step (after a
validation, or after the first batch of a resumed run), whose gradients are in no file.
"""

from __future__ import annotations

import copy

import lightning as L
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DistributedSampler

from ..coupling import counter_generator
from ..errors import ConfigError

LIGHTNING = tuple(int(part) for part in L.__version__.split(".")[:2])
BATCHES, LOGGED = "epoch_loop.batch_progress", "epoch_loop.state_dict"


def counts(checkpoint) -> dict:
    """Return what Lightning itself has written, before a host rewrites it."""
    loop = checkpoint.get("loops", {}).get("fit_loop", {})
    return copy.deepcopy({k: loop[k] for k in (BATCHES, LOGGED) if k in loop})


def mend(checkpoint, counted: dict, accumulate: int, epoch: int | None) -> None:
    """Put `counted` back, as Lightning writes it at the end of the last optimizer step's batch.

    A resumed run takes the batches since then again. Nothing else in a checkpoint
    changes within a step. epoch: number of the one being read; None before a training.
    """
    if BATCHES not in counted:
        return
    loop = checkpoint["loops"]["fit_loop"]
    loop.update(copy.deepcopy(counted))
    batches, steps = loop[BATCHES], checkpoint["global_step"]
    # An epoch's last batch ends a step, however many batches that has.
    ahead = 0 if batches["is_last_batch"] else batches["current"]["processed"] % accumulate
    # Its batch is not counted as completed yet, where it is one of this epoch.
    uncounted = int(batches["current"]["processed"] > ahead)
    for count in (batches["total"], batches["current"]):
        done = count["processed"] - ahead
        count.update(dict.fromkeys(count, done), completed=done - uncounted)
    loop[LOGGED]["_batches_that_stepped"] = steps - uncounted
    for loader in loop["state_dict"].get("combined_loader", []) if ahead else ():
        if "batch" in loader:  # its place is in the checkpoint
            loader["batch"] -= ahead
    if epoch is not None:
        # After the batch that ends it, or where a run stops in its middle, an epoch is counted
        # as one that has ended; resumed at an epoch's end, the next is not counted as begun.
        progress = loop["epoch_progress"]
        early = progress["current"]["processed"] - epoch
        for count in (progress["total"], progress["current"]):
            ended = count["processed"] - early
            count.update(ready=ended + 1, started=ended + 1, processed=ended, completed=ended)
    if LIGHTNING < (2, 5):
        _mend_old(loop, steps)


def _mend_old(loop: dict, steps: int) -> None:
    """Add what Lightning before 2.5 leaves out, which counts a batch after its checkpoint.

    Resumed, it would take that index again; after the last batch of an epoch it would make
    another epoch of one batch, and go on with a validation where the one before had ended.
    """
    batches, epochs = loop[BATCHES], loop["epoch_progress"]
    loop[LOGGED]["_batches_that_stepped"] = steps
    for count in (batches["total"], batches["current"]):
        count["completed"] = count["processed"]
    if validated := loop.get("epoch_loop.val_loop.batch_progress"):
        validated["current"] = dict.fromkeys(validated["current"], 0)
    if batches["is_last_batch"]:
        batches["is_last_batch"] = False
        batches["current"] = dict.fromkeys(batches["current"], 0)
        for count in (epochs["total"], epochs["current"]):
            count["processed"] = count["completed"] = count["ready"]


class Rows:
    """The training loaders of one fit, as a host swapped them in.

    The hosts put their fault-tolerant samplers in when Lightning has begun to read, so the
    first epoch of a process comes from the loaders of before, from its first row. And where
    a run is not distributed, an epoch's order depends on what was drawn since the process began.
    """

    def __init__(self, trainer, seed: int):
        self.loop, self.seed = trainer.fit_loop, seed
        self.first = list(self._loaders())
        self.epoch = self.loop.epoch_progress.current.processed  # that is being read
        self.ordered: int | None = None  # that of the samplers, once they are ours

    def _loaders(self):
        return self.loop._combined_loader.flattened

    def begin(self) -> None:
        """Read from the loaders that the host has put in, where it has."""
        if all(a is b for a, b in zip(self.first, self._loaders(), strict=True)):
            return
        CombinedLoader(self.first).reset()  # ends their workers
        batches = self.loop.epoch_loop.batch_progress
        # After the last batch of an epoch the next one is about to begin.
        self._seek(0 if batches.is_last_batch else batches.current.processed)
        iter(self.loop._data_fetcher)

    def begin_epoch(self) -> None:
        """Order the rows of an epoch by the seed and its number alone."""
        self.epoch = self.loop.epoch_progress.current.processed
        if self.ordered not in (None, self.epoch):
            self._seek(0)

    def _seek(self, batches: int) -> None:
        self.ordered = self.epoch
        for loader in self._loaders():
            if not hasattr(loader.sampler, "load_state_dict"):
                # A stream of a host that has no sampler for it.
                if batches:
                    raise ConfigError(
                        f"checkpointing.resume_ckpt_path: after {batches} batches the run cannot "
                        "go on, since the host streams its data from the first row: begin anew."
                    )
                continue
            state = {"counter": batches * loader.batch_size}
            if isinstance(loader.sampler, DistributedSampler):
                state["epoch"] = self.epoch
            else:
                generator = counter_generator(self.seed, "rows", self.epoch)
                state["random_state"] = generator.get_state()
            loader.sampler.load_state_dict(state)
