"""Draw the random numbers of a step by where they belong, with no state to carry."""

from __future__ import annotations

import functools
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

    def _generator(self, name: str, *place: int) -> torch.Generator:
        return coupling.counter_generator(self.config.seed, self.step, name, *place)

    def share(self, name: str, draw: Callable[[int, torch.Generator], Tensor]) -> Tensor:
        """Return this micro-batch's rows of `draw(total, generator)`, the global batch's.

        name: sets one noise of a step apart from another.
        """
        return self._place(draw(self.total, self._generator(name))[self.places])

    def by_row(self, name: str, draw: Callable[[int, torch.Generator], Tensor]) -> Tensor:
        """Stack `draw(i, generator)` over this micro-batch's rows i, each with its own generator.

        For noise of a whole batch that would be large, or is not known here.
        """
        rows = enumerate(self.places.tolist())
        return self._place(torch.stack([draw(i, self._generator(name, at)) for i, at in rows]))

    def times(self, delta: float | None, *functions: coupling.Alpha) -> tuple[Tensor, ...]:
        """Return t ~ U(delta, 1] and s = t - delta, each (batch,) float64.

        delta=None: t ~ U(0, 1] and s ~ U(0, t]. functions: of times on the CPU; what each
        makes of t and of s is returned behind them.
        """
        antithetic = self.config.training.antithetic_sampling
        how = {"generator": self._generator("t"), "antithetic": antithetic}
        if delta is None:
            times = coupling.sample_nested_times(self.total, **how)
        else:
            times = coupling.sample_times(self.total, delta, **how)
        of_times = (f(time) for f in functions for time in times)
        return tuple(self._place(x[self.places]) for x in (*times, *of_times))

    def u(self, length: int, name: str = "u") -> Tensor:
        """Return the noise u of the coupling, (batch, length), under `algo.u_law`.

        It is 0, and the token visible at every time, where a token is given; the law is
        over the others (`laws.draw_u`).
        """
        law, step = self.config.algo.u_law, number(self.config.algo, "u_step")
        draw = functools.partial(coupling.draw_u, length=length, law=law, step=step)
        if self.given is None or law == "iid":  # which asks no GPU what is given
            u = self.share(name, lambda total, g: draw(total, generator=g))
        else:  # what is given in rows of other processes is not known here
            free = ~self.given.cpu()
            u = self.by_row(name, lambda i, g: draw(1, generator=g, free=free[i : i + 1])[0])
        if self.ignore_bos:
            u[:, 0] = 0.0
        return u if self.given is None else u.masked_fill(self.given, 0.0)

    def uniform(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return numbers of [0, 1) for each row, (batch, *shape)."""
        return self.share(
            name, lambda total, g: torch.rand(total, *shape, generator=g, dtype=dtype)
        )

    def _place(self, x: Tensor) -> Tensor:
        if self.device.type == "cuda":  # from other memory the copy would wait
            return x.pin_memory().to(self.device, non_blocking=True)
        # Apple's GPUs have no float64.
        return x.float().to(self.device) if self.device.type == "mps" else x.to(self.device)


def seed_global(module, *counters: int | str) -> None:
    """Seed torch, NumPy and Python by the run's seed, step and process, and `counters`.

    For what is not ours to draw: dropout, the host's noise.
    """
    generator = coupling.counter_generator(
        module.config.seed, module.global_step, module.global_rank, *counters
    )
    seed = generator.initial_seed()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
