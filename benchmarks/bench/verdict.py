"""Differences, paired by seed, with intervals over seeds; and what they amount to.

Everything here reads the rows that were kept. Perplexities are compared as ratios, by
their logarithms, bounds as differences in nats.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation.frontier import at_equal

from .methods import MCD, METHODS, TEACHER, UNIFORM, Method

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
    try:
        from scipy import stats
    except ImportError as error:
        raise ConfigError(
            "Intervals over seeds need scipy, which is not installed: pip install 'mdlm-mcd[test]'."
        ) from error
    return float(stats.t.ppf(0.975, freedom))


def interval(values: Iterable[float]) -> Interval | None:
    """Student's t over seeds; None without values."""
    values = list(values)
    n = len(values)
    if not n:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, None, None, 1)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    half = _quantile(n - 1) * spread / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def paired(a: BySeed, b: BySeed) -> Interval | None:
    """a - b over the seeds that both have."""
    return interval(a[seed] - b[seed] for seed in sorted(a.keys() & b.keys()))


@dataclass(frozen=True)
class Place:
    """A column of the table: sampling steps and the law of u."""

    steps: int
    law: str = "iid"

    def __str__(self) -> str:
        return str(self.steps) if self.law == "iid" else f"{self.steps}, {self.law}"

    @property
    def said(self) -> str:
        """In a sentence."""
        where = "" if self.law == "iid" else f" on the {self.law}"
        return f"{self.steps} steps{where}"


def t_of(method: Method) -> float | None:
    """The constant temperature of a teacher; None for everything else."""
    if method.group not in ("teachers", "tempered teacher"):
        return None
    if not method.name.startswith(TEACHER) or isinstance(method.temperature, tuple):
        return None
    return float(method.temperature)


TEMPERED = {t_of(m): m.name for m in METHODS if t_of(m) is not None}


class Figures:
    """The rows of one part, by what was measured where."""

    def __init__(self, rows: Iterable[dict], part: str):
        self.part, self._metrics, self.stopped = part, {}, {}
        for row in rows:
            if row["part"] != part:
                continue
            if "stopped" in row:
                self.stopped.setdefault(row["method"], row["stopped"])
                continue
            key = (row["method"], row["round"], Place(row["steps"], row["law"]))
            self._metrics.setdefault(key, {})[row["seed"]] = row["metrics"]

    @property
    def methods(self) -> list[Method]:
        names = {key[0] for key in self._metrics}
        return [m for m in METHODS if m.name in names]

    @property
    def places(self) -> list[Place]:
        found = {key[2] for key in self._metrics if key[1] is None}
        return sorted(found, key=lambda p: (p.law != "iid", p.steps))

    def seeds(self, method: str) -> int:
        """Seeds a method was measured at."""
        found = (v for k, v in self._metrics.items() if k[0] == method)
        return len(set().union(*found))

    def rounds(self, method: str) -> list[int]:
        found = {key[1] for key in self._metrics if key[0] == method}
        return sorted(found - {None})

    def of(self, metric: str, method: str, place: Place, round=None) -> BySeed:
        """The figure by seed; perplexities as logarithms."""
        found = self._metrics.get((method, round, place), {})
        values = {s: m[metric] for s, m in found.items() if m.get(metric) is not None}
        if metric == "perplexity":
            return {seed: math.log(value) for seed, value in values.items()}
        return values

    def relative(self, axis: str, method: str, place: Place, round=None) -> BySeed:
        """log perplexity over the tempered teacher's at the same `axis`, by seed.

        axis: `entropy` or `bigram_entropy`. A seed is left out where no temperature of
        the teacher (same law of u, same steps, same seed) gets there.
        """
        found = {}
        own_x = self.of(axis, method, place, round)
        own_y = self.of("perplexity", method, place, round)
        for seed in own_x.keys() & own_y.keys():
            curve = [
                (x[seed], math.exp(y[seed]))
                for name in TEMPERED.values()
                if seed in (x := self.of(axis, name, place))
                and seed in (y := self.of("perplexity", name, place))
            ]
            if not curve:
                continue
            there = at_equal(*zip(*curve, strict=True), own_x[seed])
            if there is not None:
                found[seed] = own_y[seed] - math.log(there)
        return found

    def value(self, measure: str, method: str, place: Place) -> BySeed:
        """A measure by seed: a metric, or `relative` named by its axis."""
        if measure in AXES:
            return self.relative(AXES[measure], method, place)
        return self.of(measure, method, place)

    def against(self, measure, method, other, place, other_place=None):
        """`method` minus `other` (perplexities: log ratio), paired by seed."""
        return paired(
            self.value(measure, method, place), self.value(measure, other, other_place or place)
        )


AXES = {
    "perplexity at equal entropy": "entropy",
    "perplexity at equal bigram entropy": "bigram_entropy",
}
MEASURES = (*AXES, "n_step_nelbo", "perplexity")
SAID = {
    "n_step_nelbo": "N-step NELBO",
    "perplexity": "raw perplexity",
    **{name: name for name in AXES},
}
OUTCOMES = {-1: "loss", 0: "tie", 1: "win", None: ""}


def outcome(figures: Figures, measure: str, method: str, place: Place) -> str:
    """MCD against a method: win (of MCD), tie, loss, or nothing without interval."""
    if method == MCD:
        return ""
    found = figures.against(measure, method, MCD, place)
    return OUTCOMES[found.sign] if found else ""


def reference(method: Method) -> str:
    """The teacher that a method is held against."""
    return UNIFORM if method.teacher == UNIFORM else TEACHER


def tally(figures: Figures, measure: str) -> dict[str, dict[str, list[Place]]]:
    """{loss, tie, win: {method: places}} of MCD, in the order of the methods."""
    found: dict[str, dict[str, list[Place]]] = {"loss": {}, "tie": {}, "win": {}}
    for method in figures.methods:
        if measure in AXES and method.name in set(TEMPERED.values()) - {TEACHER}:
            continue  # all of them are the frontier itself, as `teacher` is
        for place in figures.places:
            said = outcome(figures, measure, method.name, place)
            if said:
                found[said].setdefault(method.name, []).append(place)
    return found
