"""Compare perplexity at equal entropy, and steps at equal perplexity; never extrapolate.

A model sampled at several temperatures leaves a curve of perplexity over entropy, its
frontier. log perplexity is interpolated linearly between neighbours, and so are log steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from ..errors import ConfigError
from .intervals import Estimate
from .results import Point, Results

NELBO = "n_step_nelbo"


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

    def across(self, slope: float) -> float:
        """Return the error of log y - slope * x; NaN where one is not known."""
        if self.x_error is None or self.log_y_error is None or self.correlation is None:
            return math.nan
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
        error = math.hypot(*(weight * p.across(slope) for weight, p in parts if weight))
        return None if math.isnan(error) else error
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


def place(point: Point) -> Place | None:
    """Return entropy and perplexity with half their 95% intervals; None without both."""
    perplexity, entropy = point.metric("perplexity"), point.metric("entropy")
    if perplexity is None or entropy is None:
        return None
    x_error = log_y_error = None
    if entropy.ends and perplexity.ends:
        low, high = entropy.ends
        x_error = (high - low) / 2
        low, high = map(math.log, perplexity.ends)
        log_y_error = (high - low) / 2
    return Place(entropy.value, perplexity.value, x_error, log_y_error, point.correlation)


def _places(results: Results, name: str, steps: int) -> list[Place]:
    """Return a curve's places at one number of steps, one a temperature."""
    found = (place(p) for p in results.of(name) if p.steps == steps)
    return [p for p in found if p]


def at_entropy(curve: Sequence[Place], entropy: float) -> float | None:
    """Return the frontier's perplexity at that entropy; None outside of its places."""
    return at_equal([p.x for p in curve], [p.y for p in curve], entropy)


class Match(NamedTuple):
    """A point against the reference at the point's own entropy.

    other: the reference's perplexity there, None where its temperatures do not reach it.
    ratio: the point's perplexity over it, without an interval where the rows do not have
    the correlation of their errors.
    """

    perplexity: float
    entropy: float
    other: float | None = None
    ratio: Estimate | None = None

    @property
    def verdict(self) -> str:
        if self.ratio is None:
            return "not reached"
        if not self.ratio.ends:
            return "no interval"
        low, high = self.ratio.ends
        if low <= 1 <= high:
            return "a tie"
        return "better" if self.ratio.value < 1 else "worse"


def match(results: Results, point: Point, reference: str) -> Match | None:
    """Return None where perplexity or entropy were not measured."""
    own = place(point)
    if own is None:
        return None
    curve = _places(results, reference, point.steps)
    other = at_entropy(curve, own.x)
    if other is None:
        return Match(own.y, own.x)
    ratio, error = own.y / other, log_ratio_error(own, curve)
    bounds = () if error is None else (ratio / math.exp(error), ratio * math.exp(error))
    return Match(own.y, own.x, other, Estimate(ratio, *bounds))


def steps_at_equal(metric: str, results: Results, point: Point, reference: str) -> Reach | None:
    """Return the steps that the reference needs for the point's figure.

    metric: n_step_nelbo or perplexity, of the reference at its plain temperature; or
    "frontier": perplexity, the reference tempered to the point's entropy.
    """
    if metric == "frontier":
        own = place(point)
        if own is None:
            return None
        steps = sorted({p.steps for p in results.of(reference)})
        curves = ((n, _places(results, reference, n)) for n in steps)
        return reach([(n, at_entropy(curve, own.x)) for n, curve in curves], own.y)
    wanted = point.metric(metric)
    if wanted is None:
        return None
    plain = results.temperatures(reference)[0]
    found = ((p.steps, p.metric(metric)) for p in results.of(reference, plain))
    return reach([(n, m.value) for n, m in found if m], wanted.value)


def reference_of(results: Results, label: str | None = None) -> str:
    """Return the curve that others are compared with: the one asked for, or the teacher.

    Raises ConfigError for a label that no row has.
    """
    points = results.points
    if label is None:
        taught = {p.teacher for p in points if p.teacher}
        first = [p for p in points if p.model in taught]
        first += [p for p in points if p.algo != "mcd" and p.round is None]
        return [*first, *points][0].name
    for p in points:
        if label in (p.name, p.model):
            return p.name
    raise ConfigError(
        f"--reference {label} is no model of these results: name one of "
        f"{', '.join(dict.fromkeys(p.model for p in points))}."
    )
