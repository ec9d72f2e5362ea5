"""What a sweep measures: points of a grid, and what is drawn at each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch

from .. import sampling
from ..errors import ConfigError, require_one_of
from . import diversity

DTYPES = {"float64": torch.float64, "float32": torch.float32}
# What is no option of a sampler here.
FLAGS = set("u_law u_step stratified latent steps temperature top_p dtype".split())


@dataclass(frozen=True)
class Setting:
    """A setting at which a model is measured."""

    sampler: str = "sparse"  # with options of its own, as `sampling.parse` reads them
    u_law: str = "iid"
    u_step: float | str | None = None  # auto: fitted to the held-out text
    stratified: bool = False
    steps: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    dtype: str = "float64"
    temperature_end: float | None = None  # None: one temperature for all steps

    @property
    def law(self) -> dict[str, Any]:
        """Return the keywords of `laws.draw_u`."""
        return {"u_law": self.u_law, "u_step": self.u_step, "stratified": self.stratified}

    @property
    def path(self) -> sampling.Temperature:
        """Return the temperature as `sampling.sample` takes it."""
        end = self.temperature_end
        return self.temperature if end is None else (self.temperature, end)


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
            require_one_of(DTYPES, "--dtype", point.dtype)
            name, options = sampling.parse(point.sampler)
            if taken := sorted(options.keys() & FLAGS):
                raise ConfigError(
                    f"--sampler {point.sampler} has {taken[0]}, which has a flag: give it as "
                    "--u-law LAW:STEP, --stratified, --steps, --temperature, --top-p or --dtype."
                )
            if (point.u_law, point.u_step) == ("lattice", "auto"):  # fitted later
                point = replace(point, u_step=None)
            options |= {"temperature": point.path, "top_p": point.top_p, **point.law}
            try:
                sampling.check(name, point.steps, **options)
            except ConfigError as error:
                given = f"--sampler {point.sampler} --steps {point.steps}"
                raise ConfigError(f"{given}: {error}") from error
        if abs(self.seed) >= 2**63:
            raise ConfigError(f"--seed {self.seed} must be a number of 64 bits, with its sign.")
        if self.mauve:
            diversity.require_mauve(self.num_samples)
        if min(self.num_samples, self.bound_rows) < 2 or self.batch_size < 1:
            raise ConfigError(
                f"--num-samples {self.num_samples}, --bound-rows {self.bound_rows} and "
                f"--batch-size {self.batch_size}: an interval needs at least 2 samples and 2 "
                "rows, a batch at least 1."
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
