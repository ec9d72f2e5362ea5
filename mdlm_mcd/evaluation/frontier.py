"""Compare perplexity at equal entropy, and steps at equal perplexity; never extrapolate.

A model sampled at several temperatures leaves a curve of perplexity over entropy, its
frontier. log perplexity is interpolated by a monotone cubic, log steps linearly.
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


def at_equal(xs: Sequence[float], ys: Sequence[float], target: float) -> float | None:
    """Return y at x = target on a curve through the points, monotone between them.

    xs: say entropies, in order of temperature; ys: perplexities > 0, of the same length.
    log y is a monotone cubic of x (Fritsch and Butland 1984, SciPy's PCHIP): a chord of a
    convex curve lies above it. None where target lies outside of the points (no
    extrapolation), where any of the figures is not finite, and on a folded curve, whose x
    does not rise or fall from end to end: it has several y for one x.
    """
    if not xs or not all(map(math.isfinite, (*xs, *ys))) or min(ys) <= 0:
        return None
    points = [(x, math.log(y)) for x, y in zip(xs, ys, strict=True)]
    if points[0] > points[-1]:
        points.reverse()
    if any(b <= a for (a, _), (b, _) in pairwise(points)):
        return None
    if target in dict(points):
        return math.exp(dict(points)[target])
    for ((x0, y0), m0), ((x1, y1), m1) in pairwise(zip(points, _slopes(points), strict=True)):
        if x0 < target < x1:
            h, t, rise = x1 - x0, (target - x0) / (x1 - x0), y1 - y0
            # Hermite's cubic, less the chord.
            bend = t * (1 - t) * ((1 - t) * (m0 * h - rise) - t * (m1 * h - rise))
            return math.exp(y0 + t * rise + bend)
    return None


def _slopes(points: Sequence[tuple[float, float]]) -> list[float]:
    """Return dy/dx at each point, such that a cubic between two does not overshoot."""
    h = [x1 - x0 for (x0, _), (x1, _) in pairwise(points)]
    d = [(y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in pairwise(points)]
    if len(d) < 2:
        return [*d, *d] or [0.0]
    slopes = [_end(h[0], h[1], d[0], d[1])]
    for (h0, h1), (d0, d1) in zip(pairwise(h), pairwise(d), strict=True):
        one, other = 2 * h1 + h0, h1 + 2 * h0
        slopes.append((one + other) / (one / d0 + other / d1) if d0 * d1 > 0 else 0.0)
    return [*slopes, _end(h[-1], h[-2], d[-1], d[-2])]


def _end(h0: float, h1: float, d0: float, d1: float) -> float:
    """Return the slope at an end: three points', unless that would overshoot."""
    slope = ((2 * h0 + h1) * d0 - h0 * d1) / (h0 + h1)
    if slope * d0 <= 0:
        return 0.0
    return 3 * d0 if d0 * d1 <= 0 and abs(slope) > 3 * abs(d0) else slope


class Place(NamedTuple):
    """A point of a frontier and its correlated errors.

    x: say entropy; y: perplexity; error: of x, and of log y; correlation: of the two.
    Errors are standard ones, or half intervals of one level; NaN: not known.
    """

    x: float
    y: float
    x_error: float = math.nan
    log_y_error: float = math.nan
    correlation: float = math.nan

    def across(self, slope: float) -> float:
        """Return the error of log y - slope * x; NaN where one is not known."""
        a, b = self.log_y_error, slope * self.x_error
        squared = a * a - 2 * self.correlation * a * b + b * b
        return math.sqrt(0.0 if squared < 0 else squared)


def log_ratio_error(own: Place, curve: Sequence[Place]) -> float | None:
    """Return the error of log(own.y / `at_equal` of the curve at own.x), to first order.

    With f the curve's log y by x, what is compared is log y - f(x): an error of `own`
    moves both, and so does one of the two places between which f is interpolated. Those of
    different places are taken for independent. None outside of the curve, and where an error
    is not known.
    """
    for a, b in pairwise(sorted(curve, key=lambda place: place.x)):
        if a.x <= own.x <= b.x and a.x < b.x:
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
    return Reach("not", curve[-1][0])


def place(point: Point) -> Place | None:
    """Return entropy and perplexity with half their 95% intervals; None without both."""
    perplexity, entropy = point.metric("perplexity"), point.metric("entropy")
    if perplexity is None or entropy is None:
        return None
    errors: tuple[float, ...] = ()
    if entropy.ends and perplexity.ends and point.correlation is not None:
        ends = entropy.ends, map(math.log, perplexity.ends)
        errors = (*((high - low) / 2 for low, high in ends), point.correlation)
    return Place(entropy.value, perplexity.value, *errors)


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


def counterpart(results: Results, point: Point, reference: str) -> str:
    """Return the curve that a point is compared with.

    The reference's model under the point's own sampler and law of u, where that was measured:
    else a student would get the credit for its law. The reference's other curves are compared
    with itself.
    """
    base = results.of(reference)[0].curve
    if point.curve[:2] == base[:2]:
        return reference
    wanted = (*base[:2], *point.curve[2:])
    return next((p.name for p in results.points if p.curve == wanted), reference)


def match(results: Results, point: Point, reference: str) -> Match | None:
    """Compare with the `counterpart`; None where perplexity or entropy were not measured."""
    own = place(point)
    if own is None:
        return None
    curve = _places(results, counterpart(results, point, reference), point.steps)
    other = at_entropy(curve, own.x)
    if other is None:
        return Match(own.y, own.x)
    ratio, error = own.y / other, log_ratio_error(own, curve)
    bounds = () if error is None else (ratio / math.exp(error), ratio * math.exp(error))
    return Match(own.y, own.x, other, Estimate(ratio, *bounds))


def steps_at_equal(metric: str, results: Results, point: Point, reference: str) -> Reach | None:
    """Return the steps that the point's `counterpart` needs for its figure.

    metric: n_step_nelbo or perplexity, of the reference at its plain temperature; or
    "frontier": perplexity, the reference tempered to the point's entropy.
    """
    reference = counterpart(results, point, reference)
    if metric == "frontier":
        own = place(point)
        if own is None:
            return None
        steps = {p.steps for p in results.of(reference)}
        curve = [(n, at_entropy(_places(results, reference, n), own.x)) for n in steps]
        return reach(curve, own.y)
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
        # `last.ckpt` may be of several, a student's own among them.
        files = [p for p in points if p.checkpoint in taught and p.checkpoint != p.teacher]
        first += files if len({p.sha256 for p in files}) == 1 else []
        first += [p for p in points if p.algo != "mcd" and p.round is None]
        return [*first, *points][0].name
    for p in points:
        if label in (p.name, p.model):
            return p.name
    raise ConfigError(
        f"--reference {label} is no model of these results: name one of "
        f"{', '.join(dict.fromkeys(p.model for p in points))}."
    )
