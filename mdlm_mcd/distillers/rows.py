"""Begin a real host's data at the row that a resumed run had reached.

The hosts put their fault-tolerant samplers in when Lightning has begun to read, so the
first epoch of a process comes from the loaders of before, from its first row. And where
a run is not distributed, an epoch's order depends on what was drawn since the process began.
"""

from __future__ import annotations

from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DistributedSampler

from ..coupling import counter_generator
from ..errors import ConfigError


class Rows:
    """The training loaders of one fit, as a host swapped them in."""

    def __init__(self, trainer, seed: int):
        self.loop, self.seed = trainer.fit_loop, seed
        self.first = list(self._loaders())
        self.epoch: int | None = None  # that of the samplers, once they are ours

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
        if self.epoch not in (None, self.loop.epoch_progress.current.processed):
            self._seek(0)

    def _seek(self, batches: int) -> None:
        self.epoch = self.loop.epoch_progress.current.processed
        for loader in self._loaders():
            if not hasattr(loader.sampler, "load_state_dict"):
                # A stream of a host that has no sampler for it.
                if batches:
                    raise ConfigError(
                        f"checkpointing.resume_ckpt_path: after {batches} batches the run cannot "
                        "go on at the next row, since the host reads its data as a stream, from "
                        "the first: begin anew."
                    )
                continue
            state = {"counter": batches * loader.batch_size}
            if isinstance(loader.sampler, DistributedSampler):
                state["epoch"] = self.epoch
            else:
                generator = counter_generator(self.seed, "rows", self.epoch)
                state["random_state"] = generator.get_state()
            loader.sampler.load_state_dict(state)
