"""Deal the rows to processes, in an order that a resumed run goes on with."""

import numpy as np
import torch
from torch.utils.data import DataLoader, DistributedSampler

from ..errors import ConfigError


def rank_and_world():
    # Asked for each time: loaders are made before the process group is.
    dist = torch.distributed
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class RankSampler(DistributedSampler):
    """Deal all rows to the processes in their own order, `rank::world`.

    Rows are repeated until every process has as many as the others. It is a
    `DistributedSampler` by type, so Lightning leaves it in its place whatever
    `use_distributed_sampler` says.
    """

    def __init__(self, dataset):
        super().__init__(dataset, 1, 0, shuffle=False)

    def __iter__(self):
        (rank, world), rows = rank_and_world(), len(self.dataset)
        return iter([i % rows for i in range(rank, len(self) * world, world)])

    def __len__(self):
        return -(-len(self.dataset) // rank_and_world()[1])


class EpochSampler(RankSampler):
    """Deal a new permutation in every epoch, also from inside one.

    What does not divide among the processes, and the last incomplete batch if
    there is a complete one, is dropped. batch_size: rows per batch and process.
    """

    def __init__(self, dataset, batch_size, seed):
        super().__init__(dataset)
        self.seed, self.batch_size = seed, batch_size
        self.batch = 0  # batches of `epoch` that were handed out
        self._named = True  # whether the next pass starts there, or with the next epoch

    def order(self, epoch):
        """Return the rows of an epoch, int64 (rows,), by seed and epoch."""
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.dataset))

    def _rows_per_batch(self):
        return self.batch_size * rank_and_world()[1]

    def state_dict(self):
        """Return where to go on: epoch, batches handed out, rows in each of them."""
        rows = self._rows_per_batch()
        return {"epoch": self.epoch, "batch": self.batch, "rows_per_batch": rows}

    def load_state_dict(self, state):
        # Another number of processes or rows goes on after the same rows.
        rows = state["batch"] * state["rows_per_batch"]
        self.epoch, self.batch = state["epoch"], rows // self._rows_per_batch()
        self._named = True

    def set_epoch(self, epoch):
        """Start the next pass with `epoch`, unless it was restored inside of it.

        Lightning calls this before every epoch, also where it does not restore the
        loader: after a checkpoint made at the end of an epoch.
        """
        if not self._named or self.epoch != epoch:
            self.epoch, self.batch, self._named = epoch, 0, True

    def begin(self):
        """Settle where a pass starts: as restored or named, else with the next epoch."""
        dealt = self.batch * self.batch_size
        finished = dealt >= len(self) if self._named else dealt > 0
        if finished:
            self.epoch, self.batch = self.epoch + 1, 0
        self._named = False

    def __iter__(self):
        rank, world = rank_and_world()
        mine = self.order(self.epoch)[rank::world][: len(self)]
        return iter(mine[self.batch * self.batch_size :].tolist())

    def __len__(self):
        world = rank_and_world()[1]
        rows = len(self.dataset) // world
        if rows == 0:
            raise ConfigError(
                f"data.train has {len(self.dataset)} rows for {world} processes: give "
                "more text, or take fewer trainer.devices."
            )
        return rows - rows % self.batch_size if rows >= self.batch_size else rows


class ResumableLoader(DataLoader):
    """Load rows, going on where a run stopped, also in mid-epoch.

    Lightning saves and restores its `state_dict` with the loops. The order of an
    epoch depends on (seed, epoch) alone. A pass that nothing was restored for, and
    that follows one which handed out a batch, is the next epoch. sampler: an
    `EpochSampler` of its own if None; any other one (Lightning puts one in to overfit)
    makes this a plain loader.
    """

    def __init__(self, dataset, batch_size=1, seed=0, sampler=None, **kwargs):
        self.seed = seed
        if sampler is None:
            sampler = EpochSampler(dataset, batch_size, seed)
        self.resumable = isinstance(sampler, EpochSampler)
        # A generator of its own: seeding workers must not move the global one,
        # which a resumed run would find elsewhere.
        kwargs.setdefault("generator", torch.Generator().manual_seed(seed))
        super().__init__(dataset, batch_size, sampler=sampler, **kwargs)

    def __iter__(self):
        # A generator, so that all of this happens at the first batch: Lightning
        # makes the iterator first and names the epoch afterwards.
        if self.resumable:
            self.sampler.begin()
        for batch in super().__iter__():
            if self.resumable:
                # Counted here and not in the sampler, which workers run ahead of.
                self.sampler.batch += 1
            yield batch

    def state_dict(self):
        """Return ints "epoch", "batch", "rows_per_batch", the same in all processes."""
        return self.sampler.state_dict() if self.resumable else {}

    def load_state_dict(self, state):
        if self.resumable and state:
            self.sampler.load_state_dict(state)
