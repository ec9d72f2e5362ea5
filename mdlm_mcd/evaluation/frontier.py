"""Perplexity at equal entropy, steps at equal perplexity; never beyond the points.

A model sampled at several temperatures leaves a curve of perplexity over entropy, its
frontier; log perplexity is interpolated linearly between neighbours. Steps are
interpolated on a scale of log2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple


def at_equal(rows_x: Sequence[float], rows_y: Sequence[float], target: float) -> float | None:
    """y at x = target, log-linear in y > 0 between the neighbouring x.

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
    """A point of a frontier and its errors, which hang together.

    x: say entropy; y: perplexity; error: of x, and of log y; correlation: of the two.
    Errors are standard ones, or half intervals of one level; None: not known.
    """

    x: float
    y: float
    x_error: float | None
    log_y_error: float | None
    correlation: float | None

    def across(self, slope: float) -> float | None:
        """The error of log y - slope * x."""
        if None in self:
            return None
        a, b = self.log_y_error, slope * self.x_error
        return math.sqrt(max(a * a - 2 * self.correlation * a * b + b * b, 0.0))


def log_ratio_error(own: Place, curve: Sequence[Place]) -> float | None:
    """The error of log(own.y / `at_equal` of the curve at own.x), to first order.

    With f the curve's log y by x, what is compared is log y - f(x): an error of `own`
    moves both, and so does one of the two places between which f is interpolated. In
    samples that came out a little more varied perplexity and entropy are larger: as
    far as the two errors go together they cancel, otherwise they add. Errors of
    different places are taken for independent. None outside of the curve, and where an
    error is not known.
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


def steps_to_reach(
    steps: Sequence[float], perplexities: Sequence[float], target: float
) -> float | None:
    """The fewest steps at which the curve comes down to `target` perplexity.

    The first crossing, log2 steps against log perplexity. None where the curve never
    reaches it, or where its fewest steps already lie below (then it takes fewer, and
    how many is not in the points).
    """
    curve = sorted(zip(steps, perplexities, strict=True))
    if not curve or not all(y > 0 and math.isfinite(y) for _, y in curve):
        return None
    if curve[0][1] <= target:
        return float(curve[0][0]) if curve[0][1] == target else None
    for (n0, y0), (n1, y1) in pairwise(curve):
        if y1 <= target < y0:
            share = math.log(y0 / target) / math.log(y0 / y1)
            return 2 ** ((1 - share) * math.log2(n0) + share * math.log2(n1))
    return None


def speed_up(
    steps: Sequence[float], perplexities: Sequence[float], *, at: float, perplexity: float
) -> float | None:
    """How many times the steps the curve needs for what a student does in `at`.

    steps, perplexities: the reference's curve; perplexity: the student's at `at`
    steps. None as in `steps_to_reach`.
    """
    needed = steps_to_reach(steps, perplexities, perplexity)
    return None if needed is None else needed / at


Frontiers = Mapping[int, tuple[Sequence[float], Sequence[float]]]
"""By steps: entropies and perplexities over the temperatures."""


def at_entropy(frontiers: Frontiers, entropy: float) -> dict[int, float]:
    """Perplexity by steps at equal entropy, where the frontiers reach it."""
    out = {n: at_equal(x, y, entropy) for n, (x, y) in frontiers.items()}
    return {n: y for n, y in out.items() if y is not None}


def speed_up_at_equal(
    frontiers: Frontiers, *, at: float, perplexity: float, entropy: float
) -> float | None:
    """`speed_up` at equal perplexity and entropy.

    The reference's temperature is chosen anew at each number of steps, so that its
    entropy is the student's. None where the frontiers do not reach both.
    """
    curve = at_entropy(frontiers, entropy)
    return speed_up(list(curve), list(curve.values()), at=at, perplexity=perplexity)
