"""Differences, paired by seed, with intervals over seeds; and what they amount to.

Everything here reads the rows that a sweep wrote. Perplexities are compared as ratios, by
their logarithms, bounds as differences in nats.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, stdev
from typing import NamedTuple

from mdlm_mcd.evaluation.frontier import at_equal

from .methods import METHODS, Method

BySeed = Mapping[int, float]


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its 95% interval (None with a single seed)."""

    mean: float
    low: float | None
    high: float | None
    seeds: int

    @property
    def sign(self) -> int | None:
        """1 or -1 where the interval excludes zero, 0 where not, None without one."""
        if self.low is None:
            return None
        return (self.low > 0) - (self.high < 0)


@lru_cache(maxsize=64)
def _quantile(freedom: int) -> float:
    from scipy import stats  # of mdlm-mcd[test]; not for --plan

    return float(stats.t.ppf(0.975, freedom))


def interval(values: Iterable[float]) -> Interval | None:
    """Student's t over seeds; None without values."""
    values = list(values)
    if not values:
        return None
    n, mean = len(values), fmean(values)
    if n == 1:
        return Interval(mean, None, None, 1)
    half = _quantile(n - 1) * stdev(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def paired(a: BySeed, b: BySeed) -> Interval | None:
    """a - b over the seeds that both have."""
    return interval(a[seed] - b[seed] for seed in sorted(a.keys() & b.keys()))


class Place(NamedTuple):
    """A column of the table: sampling steps and the law of u."""

    steps: int
    law: str = "iid"

    def __str__(self) -> str:
        return str(self.steps) if self.law == "iid" else f"{self.steps}, {self.law}"

    @property
    def words(self) -> str:
        """In a sentence."""
        where = "" if self.law == "iid" else f" on the {self.law}"
        return f"{self.steps} steps{where}"


FRONTIER = [m.name for m in METHODS if m.frontier]
AXES = {
    "perplexity at equal entropy": "entropy",
    "perplexity at equal bigram entropy": "bigram_entropy",
}
OUTCOMES = {-1: "loss", 0: "tie", 1: "win", None: ""}


class Figures:
    """The rows of one part, by what was measured where.

    stopped: why a method was not measured, by its name.
    """

    def __init__(self, rows: Iterable[dict], stopped: Mapping[str, str] | None = None):
        self.stopped = dict(stopped or {})
        self.rows: dict[tuple, dict[int, dict]] = {}  # by method, round, place; by seed
        for row in rows:
            key = (row["method"], row["round"], Place(row["steps"], row["u_law"]))
            self.rows.setdefault(key, {})[row["seed"]] = row

    @property
    def first(self) -> dict:
        return next(iter(next(iter(self.rows.values())).values()))

    @property
    def methods(self) -> list[Method]:
        names = {key[0] for key in self.rows}
        return [m for m in METHODS if m.name in names]

    @property
    def places(self) -> list[Place]:
        found = {key[2] for key in self.rows if key[1] is None}
        return sorted(found, key=lambda p: (p.law != "iid", p.steps))

    def seeds(self, method: str) -> int:
        """How many seeds a method was measured at."""
        return len(set().union(*(v for k, v in self.rows.items() if k[0] == method)))

    def of(self, metric: str, method: str, place: Place, round=None) -> BySeed:
        """The figure by seed; perplexities as logarithms."""
        rows = self.rows.get((method, round, place), {}).items()
        found = {s: row["metrics"][metric]["value"] for s, row in rows if metric in row["metrics"]}
        if metric == "perplexity":
            return {seed: math.log(value) for seed, value in found.items()}
        return found

    def mean(self, metric: str, method: str, place: Place) -> float | None:
        found = interval(self.of(metric, method, place).values())
        return found and found.mean

    def relative(self, axis: str, method: str, place: Place) -> BySeed:
        """log perplexity over the tempered teacher's at the same `axis`, by seed.

        axis: `entropy` or `bigram_entropy`. A seed is left out where no temperature of
        the teacher (same law of u, same steps, same seed) gets there.
        """
        found = {}
        own_x = self.of(axis, method, place)
        own_y = self.of("perplexity", method, place)
        for seed in own_x.keys() & own_y.keys():
            curve = [
                (x[seed], math.exp(y[seed]))
                for name in FRONTIER
                if seed in (x := self.of(axis, name, place))
                and seed in (y := self.of("perplexity", name, place))
            ]
            there = at_equal(*zip(*curve, strict=True), own_x[seed]) if curve else None
            if there is not None:
                found[seed] = own_y[seed] - math.log(there)
        return found

    def against(self, measure, method, other, place) -> Interval | None:
        """`method` minus `other` (perplexities: log ratio), paired by seed.

        measure: a metric, or one of AXES.
        """

        def value(name):
            if measure in AXES:
                return self.relative(AXES[measure], name, place)
            return self.of(measure, name, place)

        return paired(value(method), value(other))
