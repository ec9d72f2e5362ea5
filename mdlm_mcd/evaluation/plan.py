"""What a sweep measures: points of a grid, and what is drawn at each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch

from .. import sampling
from ..errors import ConfigError
from . import diversity

DTYPES = {"float64": torch.float64, "float32": torch.float32}
LAW = ("u_law", "u_step", "stratified")
FLAGS = {*LAW, "latent", "steps", "temperature", "top_p", "dtype"}  # no options of a sampler


@dataclass(frozen=True)
class Setting:
    """A setting at which a model is measured; u_law, u_step and stratified are of `laws.draw_u`.

    sampler: with options of its own, as `sampling.parse` reads them.
    """

    sampler: str = "sparse"
    u_law: str = "iid"
    u_step: float | str | None = None  # auto: fitted to the held-out text
    stratified: bool = False
    steps: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    dtype: str = "float64"
    temperature_end: float | None = None  # None: one temperature for all steps


@dataclass(frozen=True)
class Plan:
    """A grid of points and what is drawn at each.

    bound_rows: rows of held-out text for the bounds. mauve: measure that, too. exact: also
    -log p itself under the lattice of 1/N, of 2N^2 network passes a row. by_row: keep the
    N-step NELBO of each row, for intervals over rows and seeds.
    """

    points: tuple[Setting, ...]
    num_samples: int = 1024
    batch_size: int = 64
    bound_rows: int = 256
    seed: int = 1
    mauve: bool = False
    exact: bool = False
    by_row: bool = False

    def check(self) -> None:
        """Raise ConfigError for what cannot be measured, before any model is opened."""
        for point in self.points:
            if point.dtype not in DTYPES:
                raise ConfigError(
                    f"--dtype {point.dtype} is unknown: choose one of {', '.join(DTYPES)}."
                )
            temperatures = (point.temperature, point.temperature_end or 1.0)
            fine = all(0 < t < math.inf for t in temperatures) and 0 < point.top_p <= 1
            if not (point.steps >= 1 and fine):
                raise ConfigError(
                    f"--steps {point.steps}, --temperature {point.temperature} and "
                    f"--top-p {point.top_p}: steps must be at least 1, the temperature "
                    "positive and top-p within (0, 1]."
                )
            name, options = sampling.parse(point.sampler)
            if taken := sorted(options.keys() & FLAGS):
                raise ConfigError(
                    f"--sampler {point.sampler} has {taken[0]}, which has a flag: give it as "
                    "--u-law LAW:STEP, --stratified, --steps, --temperature, --top-p or --dtype."
                )
            # `auto` is fitted later.
            step = None if isinstance(point.u_step, str) else point.u_step
            law = {"u_law": point.u_law, "u_step": step, "stratified": point.stratified}
            sampling.check(name, point.steps, **law, **options)
        if self.bound_rows < 2:
            raise ConfigError(f"--bound-rows {self.bound_rows}: an interval needs at least 2 rows.")
        if self.mauve:
            diversity.require_mauve()
        if self.num_samples < 2 or self.batch_size < 1:
            raise ConfigError(
                f"--num-samples {self.num_samples} and --batch-size {self.batch_size}: "
                "at least 2 samples are needed for an interval, in batches of at least "
                "1."
            )


def grid(
    steps: Sequence[int],
    temperatures: Sequence[float] = (1.0,),
    samplers: Sequence[str] = ("sparse",),
    laws: Sequence[tuple[str, float | None]] = (("iid", None),),
    dtypes: Sequence[str] = ("float64",),
    top_p: float = 1.0,
    stratified: bool = False,
) -> tuple[Setting, ...]:
    """Return all combinations, the cheap ones first, each once."""
    found = (
        Setting(sampler, law, step, stratified, n, t, top_p, dtype)
        for n, t, sampler, (law, step), dtype in product(
            sorted(steps), temperatures, samplers, laws, dtypes
        )
    )
    return tuple(dict.fromkeys(found))
