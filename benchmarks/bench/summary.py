"""Differences, paired by seed, with intervals over seeds: the rows of docs/results.jsonl.

A row is a method at a round, a number of steps and a law of u. Beside its levels it has, for
each of MEASURES, its difference to its teacher (T = 1), to MCD and, on a lattice, to itself
under iid u: perplexities as ratios in percent, by their logarithms, bounds in nats.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from statistics import fmean, stdev
from typing import NamedTuple

from scipy import stats

from mdlm_mcd.evaluation.frontier import at_equal

from .methods import MCD, METHODS, TEACHER

LEVELS = ("perplexity", "n_step_nelbo", "entropy", "corpus_entropy", "bigram_entropy")
OUTSIDE = "outside_perplexity"
AXES = {
    "perplexity at equal entropy": "entropy",
    "perplexity at equal bigram entropy": "bigram_entropy",
}
MEASURES = (*AXES, "n_step_nelbo", "perplexity")
KNOWN = {method.name: method for method in METHODS}
FRONTIER = [m.name for m in sorted(METHODS, key=lambda m: m.temperatures[0]) if m.frontier]
BySeed = Mapping[int, float]


class Interval(NamedTuple):
    """A mean over seeds, its 95% interval by Student's t, and the sign of the interval.

    A bound's is over held-out rows as well. With one seed there is neither interval nor sign; the
    sign is 0 where zero is inside.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    sign: int | None = None


def half_width(values: Sequence[float]) -> float:
    """Return half of the 95% interval of a mean, by Student's t."""
    n = len(values)
    return float(stats.t.ppf(0.975, n - 1)) * stdev(values) / math.sqrt(n)


def interval(values: Iterable[float], percent: bool = False, rows=()) -> Interval | None:
    """Return the interval of values by seed (percent: log ratios); None without values.

    rows: the same by row of held-out text, which are a sample, too: both errors count.
    """
    values, rows = list(values), list(rows)
    if not values:
        return None
    show = (lambda x: 100 * math.expm1(x)) if percent else float
    n, mean = len(values), fmean(values)
    if n == 1:
        return Interval(show(mean))
    half = math.hypot(half_width(values), half_width(rows) if rows else 0.0)
    low, high = mean - half, mean + half
    return Interval(show(mean), show(low), show(high), (low > 0) - (high < 0))


class Figures:
    """The rows of one part that sweeps wrote, by what was measured where."""

    def __init__(self, rows: Iterable[dict]):
        self.rows: dict[tuple, dict[int, dict]] = {}  # (method, round, (steps, law)): by seed
        for row in rows:
            key = row["method"], row["round"], (row["steps"], row["u_law"])
            self.rows.setdefault(key, {})[row["seed"]] = row
        self.of = cache(self._of)

    def _of(self, measure: str, method: str, place: tuple, round=None) -> BySeed:
        """Return a level or one of AXES by seed; perplexities as logarithms."""
        if measure in AXES:
            return self._over_teacher(AXES[measure], method, place)
        rows = self.rows.get((method, round, place), {}).items()
        found = {
            s: row["metrics"][measure]["value"] for s, row in rows if measure in row["metrics"]
        }
        if measure in ("perplexity", OUTSIDE):
            return {seed: math.log(value) for seed, value in found.items()}
        return found

    def _over_teacher(self, axis: str, method: str, place: tuple) -> BySeed:
        """Return log perplexity over the tempered teacher's at the same `axis`, by seed.

        The teacher is that of the same law of u, steps and seed. Nothing is returned
        where a seed of the method lies beyond its temperatures, or they fold: to leave that
        seed out would favour those with less entropy.
        """
        found = {}
        own_x, own_y = self.of(axis, method, place), self.of("perplexity", method, place)
        for seed in own_x.keys() & own_y.keys():
            curve = [
                (x[seed], math.exp(y[seed]))
                for name in FRONTIER
                if seed in (x := self.of(axis, name, place))
                and seed in (y := self.of("perplexity", name, place))
            ]
            there = at_equal(*zip(*curve, strict=True), own_x[seed]) if curve else None
            if there is None:
                return {}
            found[seed] = own_y[seed] - math.log(there)
        return found

    def by_row(self, method: str, place: tuple) -> BySeed:
        """Return the N-step NELBO of each row of held-out text, by seed."""
        rows = self.rows.get((method, None, place), {}).items()
        found = {seed: row["metrics"].get("n_step_nelbo", {}).get("by_row") for seed, row in rows}
        return {seed: nats for seed, nats in found.items() if nats}

    def against(self, measure: str, method: str, place: tuple) -> dict:
        """Return {what it is compared with: interval} of a method in one measure."""
        percent = measure != "n_step_nelbo"
        mine = self.of(measure, method, place)

        def difference(name: str, at: tuple = place) -> Interval | None:
            """Over the seeds that both have."""
            other, rows = self.of(measure, name, at), []
            both = sorted(mine.keys() & other.keys())
            if measure == "n_step_nelbo":
                ours, theirs = self.by_row(method, place), self.by_row(name, at)
                pairs = [
                    zip(ours[s], theirs[s], strict=True) for s in both if s in ours and s in theirs
                ]
                rows = [fmean(a - b for a, b in row) for row in zip(*pairs, strict=True)]
            return interval((mine[seed] - other[seed] for seed in both), percent, rows)

        found = {}
        if measure in AXES:
            if method in FRONTIER and method != TEACHER:
                return {}  # all of the frontier is as far as the teacher
            found["teacher"] = interval(mine.values(), percent)
        elif method != (reference := KNOWN[method].teacher):
            found["teacher"] = difference(reference)
        if method != MCD:
            found["mcd"] = difference(MCD)
        if measure == "perplexity" and place[1] != "iid":
            found["iid"] = difference(method, (place[0], "iid"))
        return {name: value for name, value in found.items() if value}


def summary(part: str, rows: Iterable[dict]) -> list[dict]:
    """Return the part's rows, methods in the order of METHODS, means over seeds."""
    figures, found = Figures(rows), []
    for (method, k, place), by_seed in figures.rows.items():
        row = {"part": part, "method": method, "round": k, "steps": place[0], "u_law": place[1]}
        row["seeds"] = len(by_seed)
        for level in (*LEVELS, OUTSIDE):
            if values := figures.of(level, method, place, k).values():
                log = level in ("perplexity", OUTSIDE)
                row[level] = math.exp(fmean(values)) if log else fmean(values)
        if k is None:
            compared = {m: figures.against(m, method, place) for m in MEASURES}
            row["against"] = {m: to for m, to in compared.items() if to}
        found.append(row)
    order = list(KNOWN)
    found.sort(key=lambda r: (order.index(r["method"]), r["u_law"] != "iid", r["steps"]))
    return found
