"""The random numbers of a step: looked up by where they belong, not carried along."""

from __future__ import annotations

import random
from fractions import Fraction
from numbers import Real

import numpy as np
import torch
from omegaconf import DictConfig

from .. import coupling
from ..curriculum import Round
from ..errors import ConfigError


def number(config: DictConfig, key: str, group: str = "algo") -> float | None:
    """config[key], where the command line may also say a fraction such as 1/512.

    Raises ConfigError for anything that is no number.
    """
    value = config[key]
    if value is None or (isinstance(value, Real) and not isinstance(value, bool)):
        return value
    try:
        if not isinstance(value, str):
            raise ValueError
        return float(Fraction(value))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise ConfigError(
            f"{group}.{key}={value} is no number: write it like 0.05 or 1/20."
        ) from error


@torch.no_grad()
def check_schedule(alpha: coupling.Alpha, noise_type: str, algo_name: str) -> None:
    """Raises ConfigError unless alpha_t falls all the way from about 1 to about 0."""
    t = torch.linspace(0, 1, 65, dtype=torch.float64)
    alpha_t = alpha(t).double()
    rises = ~(alpha_t.diff() < 0)
    if alpha_t[0] >= 0.9 and alpha_t[-1] <= 0.1 and rises.any():
        i = int(rises.nonzero()[0])
        raise ConfigError(
            f"noise.type={noise_type} keeps a token visible with a chance of "
            f"{alpha_t[i]:.3g} at t={t[i]:.3g} and {alpha_t[i + 1]:.3g} at "
            f"t={t[i + 1]:.3g}, but algo={algo_name} needs it to fall all the way: use "
            "the schedule the teacher was trained with, for example the log-linear one."
        )
    if not (alpha_t[0] >= 0.9 and alpha_t[-1] <= 0.1):
        raise ConfigError(
            f"noise.type={noise_type} keeps a token visible with a chance from "
            f"{alpha_t[0]:.3g} at t=0 to {alpha_t[-1]:.3g} at t=1, but algo="
            f"{algo_name} needs it to fall from about 1 to about 0: use the schedule "
            "the teacher was trained with, for example the log-linear one."
        )


class CounterNoise:
    """Noise as a function of seed, global step and a row's place in the global batch.

    For a `LightningModule` with a `trainer` and the host's `config`.
    """

    def _rows(self, count: int, micro: int) -> tuple[torch.Tensor, int]:
        """Places of this micro-batch's rows in the global batch, and its size.

        Row i of the batch that a sampler deals to rank r sits at i * world + r, so
        one process and several draw the same noise for the same sequence.
        """
        world, rank = self.trainer.world_size, self.global_rank
        nominal = max(self.config.loader.batch_size, count)
        places = (micro * nominal + torch.arange(count)) * world + rank
        return places, nominal * self.trainer.accumulate_grad_batches * world

    def seed_global(self, *counters: int | str) -> None:
        """Seed what is not ours to draw: dropout, the host's noise. All devices.

        By seed, step, process and `counters`; NumPy's and Python's generators as well.
        """
        generator = coupling.counter_generator(
            self.config.seed, self.global_step, self.global_rank, *counters
        )
        seed = generator.initial_seed()
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)

    def draw_times(self, stage: Round, count: int, micro: int):
        """This micro-batch's share of the step's (t, s); each (count,) float64."""
        return self.share(
            count,
            micro,
            "t",
            lambda total, generator: coupling.sample_times(
                total,
                stage.delta,
                generator=generator,
                antithetic=self.config.training.antithetic_sampling,
            ),
        )

    def share(self, count: int, micro: int, name: str, draw):
        """This micro-batch's rows of each tensor that draw(total, generator) answers.

        `draw` is asked for the whole global batch; name tells one noise of a step
        from another.
        """
        places, total = self._rows(count, micro)
        generator = coupling.counter_generator(self.config.seed, self.global_step, name)
        return tuple(self._place(x[places]) for x in draw(total, generator))

    def draw_u(self, shape, micro: int, name: str = "u") -> torch.Tensor:
        """This micro-batch's trajectory noise, (batch, length)."""
        places, total = self._rows(shape[0], micro)
        generator = coupling.counter_generator(self.config.seed, self.global_step, name)
        algo = self.config.algo
        u = coupling.draw_u(
            total, shape[1], algo.u_law, step=number(algo, "u_step"), generator=generator
        )[places]
        if getattr(self, "ignore_bos", False):
            u[:, 0] = 0.0  # visible at every time
        return u.to(self.device)

    def draw_uniform(self, count: int, micro: int, name: str) -> torch.Tensor:
        """One number of [0, 1) for each row of this micro-batch, (count,) float32."""
        places, total = self._rows(count, micro)
        generator = coupling.counter_generator(self.config.seed, self.global_step, name)
        return torch.rand(total, generator=generator)[places]

    def _place(self, t: torch.Tensor) -> torch.Tensor:
        # Apple's GPUs have no float64.
        return t.float().to(self.device) if self.device.type == "mps" else t.to(self.device)
