"""Draw the random numbers of a step by where they belong, with no state to carry."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from .. import coupling
from .settings import number


class StepNoise:
    """The noise of one micro-batch, as a function of seed, step, name and row.

    A row is named by its place in the global batch, so one process and several, with
    or without gradient accumulation, draw the same noise for the same sequence, and a
    resumed run draws what the interrupted one would have drawn.

    module: a `LightningModule` with a `trainer` and the host's `config`; count: rows of
    this micro-batch; micro: its index within the optimizer step; given: (count, length)
    bool, the tokens that are context.
    """

    def __init__(self, module, count: int, micro: int, given: Tensor | None = None):
        self.given = given
        self.config: DictConfig = module.config
        self.step = module.global_step
        self.device = module.device
        self.ignore_bos = getattr(module, "ignore_bos", False)
        # Row i of the batch that a sampler deals to rank r sits at i * world + r.
        world = module.trainer.world_size
        rows = max(self.config.loader.batch_size, count)
        self.places = (micro * rows + torch.arange(count)) * world + module.global_rank
        self.total = rows * module.trainer.accumulate_grad_batches * world

    def share(
        self, name: str, draw: Callable[[int, torch.Generator], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """Return this micro-batch's rows of each tensor that `draw` returns.

        draw(total, generator): tensors of `total` rows, those of the whole global batch.
        name: tells one noise of a step from another.
        """
        generator = coupling.counter_generator(self.config.seed, self.step, name)
        return tuple(self._place(x[self.places]) for x in draw(self.total, generator))

    def times(self, delta: float | None, *functions: coupling.Alpha) -> tuple[Tensor, ...]:
        """Return t ~ U(delta, 1] and s = t - delta, each (batch,) float64.

        delta=None: t ~ U(0, 1] and s ~ U(0, t]. functions: of times on the CPU; what each
        makes of t and of s is returned behind them.
        """
        antithetic = self.config.training.antithetic_sampling

        def draw(total: int, generator: torch.Generator) -> tuple[Tensor, ...]:
            how = {"generator": generator, "antithetic": antithetic}
            if delta is None:
                times = coupling.sample_nested_times(total, **how)
            else:
                times = coupling.sample_times(total, delta, **how)
            return *times, *(f(time) for f in functions for time in times)

        return self.share("t", draw)

    def u(self, length: int, name: str = "u") -> Tensor:
        """Return the noise u of the coupling, (batch, length), under `algo.u_law`.

        It is 0, and the token visible at every time, where a token is given; the law is
        over the others (`laws.draw_u`).
        """
        law, step = self.config.algo.u_law, number(self.config.algo, "u_step")

        def draw(total: int, generator: torch.Generator, **how) -> tuple[Tensor]:
            return (coupling.draw_u(total, length, law, step=step, generator=generator, **how),)

        if self.given is None or law == "iid":  # which asks no GPU what is given
            (u,) = self.share(name, draw)
        else:  # what is given in rows of other processes is not known here
            rows = zip(self.places.tolist(), ~self.given.cpu(), strict=True)
            seeds = (self.config.seed, self.step, name)
            drawn = [
                draw(1, coupling.counter_generator(*seeds, place), free=free[None])[0]
                for place, free in rows
            ]
            u = self._place(torch.cat(drawn))
        if self.ignore_bos:
            u[:, 0] = 0.0
        return u if self.given is None else u.masked_fill(self.given, 0.0)

    def uniform(self, name: str) -> Tensor:
        """Return a number of [0, 1) for each row, (batch,) float32."""
        return self.share(name, lambda total, g: (torch.rand(total, generator=g),))[0]

    def by_row(self, name: str, *shape: int) -> Tensor:
        """Return numbers of [0, 1) for each row, (batch, *shape) float64.

        Each row has a generator of its own, where a whole batch's noise would be large.
        """
        seeds = self.config.seed, self.step, name
        own = [coupling.counter_generator(*seeds, place) for place in self.places.tolist()]
        drawn = [torch.rand(shape, generator=g, dtype=torch.float64) for g in own]
        return self._place(torch.stack(drawn))

    def _place(self, x: Tensor) -> Tensor:
        if self.device.type == "cuda":  # from other memory the copy would wait
            return x.pin_memory().to(self.device, non_blocking=True)
        # Apple's GPUs have no float64.
        return x.float().to(self.device) if self.device.type == "mps" else x.to(self.device)


def seed_global(module, *counters: int | str) -> None:
    """Seed what is not ours to draw: dropout, the host's noise; torch, NumPy, Python.

    By the run's seed, step and process, and by `counters`.
    """
    generator = coupling.counter_generator(
        module.config.seed, module.global_step, module.global_rank, *counters
    )
    seed = generator.initial_seed()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
