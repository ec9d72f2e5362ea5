"""Compare perplexity at equal entropy, and steps at equal perplexity; never extrapolate.

A model sampled at several temperatures leaves a curve of perplexity over entropy, its
frontier. log perplexity is interpolated linearly between neighbours, and so are log steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


def at_equal(rows_x: Sequence[float], rows_y: Sequence[float], target: float) -> float | None:
    """Return y at x = target, log-linear in y > 0 between the neighbouring x.

    rows_x: say entropies, by temperature and in any order; rows_y: perplexities of the
    same length. Points of equal x count as their geometric mean. None where target
    lies outside of the points (no extrapolation) or any of the figures is not finite.
    """
    groups: dict[float, list[float]] = {}
    for x, y in zip(rows_x, rows_y, strict=True):
        if not (math.isfinite(x) and math.isfinite(y) and y > 0):
            return None
        groups.setdefault(x, []).append(math.log(y))
    curve = sorted((x, sum(y) / len(y)) for x, y in groups.items())
    for x, y in curve:
        if x == target:
            return math.exp(y)
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 < target < x1:
            share = (target - x0) / (x1 - x0)
            return math.exp((1 - share) * y0 + share * y1)
    return None


class Place(NamedTuple):
    """A point of a frontier and its correlated errors.

    x: say entropy; y: perplexity; error: of x, and of log y; correlation: of the two.
    Errors are standard ones, or half intervals of one level; None: not known.
    """

    x: float
    y: float
    x_error: float | None
    log_y_error: float | None
    correlation: float | None

    def across(self, slope: float) -> float | None:
        """Return the error of log y - slope * x."""
        if None in self:
            return None
        a, b = self.log_y_error, slope * self.x_error
        return math.sqrt(max(a * a - 2 * self.correlation * a * b + b * b, 0.0))


def log_ratio_error(own: Place, curve: Sequence[Place]) -> float | None:
    """Return the error of log(own.y / `at_equal` of the curve at own.x), to first order.

    With f the curve's log y by x, what is compared is log y - f(x): an error of `own`
    moves both, and so does one of the two places between which f is interpolated. As far
    as the errors of perplexity and entropy go together they cancel, otherwise they add;
    those of different places are taken for independent. None outside of the curve, and
    where an error is not known.
    """
    for a, b in pairwise(sorted(curve, key=lambda place: place.x)):
        if not (a.x <= own.x <= b.x and a.x < b.x):
            continue
        slope = (math.log(b.y) - math.log(a.y)) / (b.x - a.x)
        share = (own.x - a.x) / (b.x - a.x)
        parts = [(1.0, own), (1 - share, a), (share, b)]
        errors = [(weight, p.across(slope)) for weight, p in parts if weight]
        if any(error is None for _, error in errors):
            return None
        return math.sqrt(sum((weight * error) ** 2 for weight, error in errors))
    return None


class Reach(NamedTuple):
    """Steps at which a curve comes down to a target.

    kind: "at" those steps; "within": it is there at the fewest that were measured;
    "not": never up to `steps`; "apart": there is nothing to compare.
    """

    kind: str
    steps: float


def reach(curve: Sequence[tuple[int, float | None]], target: float) -> Reach:
    """Return where (steps, perplexity) first is at or below target, log-log between points.

    A perplexity of None is a number of steps at which there is nothing to compare.
    """
    curve = sorted(curve)
    measured = [n for n, p in curve if p is not None]
    before = None
    for n, p in curve:
        if p is not None and p <= target:
            if before is None:
                return Reach("within", n)
            m, q = before
            if min(p, target) <= 0:  # a loss of nothing
                return Reach("at", n)
            return Reach("at", m * (n / m) ** (math.log(q / target) / math.log(q / p)))
        before = None if p is None else (n, p)
    if not curve or curve[-1][1] is None:  # it may be there, where nothing can be compared
        return Reach("apart", 0)
    return Reach("not", measured[-1])
