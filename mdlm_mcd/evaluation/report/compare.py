"""Two models at equal entropy, and steps saved at equal quality; no extrapolation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..frontier import at_equal
from ..results import Estimate, Point, Results


def between(curve: Sequence[tuple[float, Estimate]], x: float) -> Estimate | None:
    """The curve at x by `at_equal`; None outside of it.

    The interval is interpolated like the value: a rough one, and too wide rather than
    too narrow where the two neighbours err apart.
    """

    def at(part: str) -> float | None:
        values = [getattr(figure, part) for _, figure in curve]
        return None if None in values else at_equal([p for p, _ in curve], values, x)

    value = at("value")
    return None if value is None else Estimate(value, at("low"), at("high"))


def frontier(results: Results, name: str, steps: int) -> list[tuple[float, Estimate]]:
    """(entropy, perplexity) of a curve's temperatures at one number of steps."""
    found = []
    for p in results.of(name):
        entropy, perplexity = p.metric("entropy"), p.metric("perplexity")
        if p.steps == steps and entropy and perplexity:
            found.append((entropy.value, perplexity))
    return found


@dataclass(frozen=True)
class Match:
    """A point against the reference at the point's own entropy.

    ratio: the point's perplexity over the reference's, with its 95% interval, which
    takes the errors of the two for independent.
    """

    own: Estimate
    entropy: Estimate
    other: Estimate | None
    ratio: Estimate | None

    @property
    def verdict(self) -> str:
        if self.ratio is None:
            return "not reached"
        if self.ratio.low is None:
            return "no interval"
        if self.ratio.low <= 1 <= self.ratio.high:
            return "a tie"
        return "better" if self.ratio.value < 1 else "worse"


def match(results: Results, point: Point, reference: str) -> Match | None:
    """None where perplexity or entropy were not measured."""
    own, entropy = point.metric("perplexity"), point.metric("entropy")
    if own is None or entropy is None:
        return None
    other = between(frontier(results, reference, point.steps), entropy.value)
    if other is None:
        return Match(own, entropy, None, None)
    ratio = own.value / other.value
    spread = [_log_error(own), _log_error(other)]
    if None in spread:
        return Match(own, entropy, other, Estimate(ratio))
    error = math.exp(math.hypot(*spread))
    return Match(own, entropy, other, Estimate(ratio, ratio / error, ratio * error))


def _log_error(e: Estimate) -> float | None:
    """Half the interval's width in log units."""
    if e.low is None or e.high is None or e.low <= 0:
        return None
    return (math.log(e.high) - math.log(e.low)) / 2


@dataclass(frozen=True)
class Reach:
    """Steps at which a curve comes down to a target.

    kind: "at" those steps; "within": it is there at the fewest that were measured;
    "not": never up to `steps`; "apart": there is nothing to compare.
    """

    kind: str
    steps: float


def reach(curve: Sequence[tuple[int, float | None]], target: float) -> Reach:
    """Where (steps, perplexity) first is at or below target, log-log between points.

    A perplexity of None is a number of steps at which there is nothing to compare.
    """
    curve = sorted(curve)
    known = [(n, p) for n, p in curve if p is not None]
    if not known:
        return Reach("apart", 0)
    before: tuple[int, float] | None = None
    for n, p in curve:
        if p is None:
            before = None
            continue
        if p <= target:
            if before is None:
                return Reach("within", n)
            m, q = before
            if min(p, target) <= 0:  # a loss of nothing
                return Reach("at", n)
            share = math.log(q / target) / math.log(q / p)
            return Reach("at", m * (n / m) ** share)
        before = (n, p)
    if curve[-1][1] is None:  # it may be there, where nothing can be compared
        return Reach("apart", 0)
    return Reach("not", known[-1][0])


def _steps_at_equal(metric: str, results: Results, point: Point, reference: str):
    """Both at their own temperature: the reference's plain one."""
    own = point.metric(metric)
    if own is None:
        return None
    plain = results.temperatures(reference)[0]
    found = ((p.steps, p.metric(metric)) for p in results.of(reference, plain))
    return reach([(n, m.value) for n, m in found if m], own.value)


def steps_at_equal_nelbo(results: Results, point: Point, reference: str):
    """Steps that the reference needs for the point's N-step NELBO; Reach or None."""
    return _steps_at_equal("n_step_nelbo", results, point, reference)


def steps_at_equal_perplexity(results: Results, point: Point, reference: str):
    """Steps that the reference needs for the point's perplexity; Reach or None."""
    return _steps_at_equal("perplexity", results, point, reference)


def steps_at_equal_both(results: Results, point: Point, reference: str) -> Reach | None:
    """The same with the reference's temperature set to meet the point's entropy."""
    own, entropy = point.metric("perplexity"), point.metric("entropy")
    if own is None or entropy is None:
        return None
    curve = []
    for n in sorted({p.steps for p in results.of(reference)}):
        there = between(frontier(results, reference, n), entropy.value)
        curve.append((n, there.value if there else None))
    return reach(curve, own.value)


def reference_of(results: Results, label: str | None = None) -> str:
    """The curve that others are compared with: the one asked for, or the teacher.

    Raises KeyError for a label that no row has.
    """
    points = results.points
    if label is not None:
        found = [p.name for p in points if label in (p.name, p.model)]
        if not found:
            raise KeyError(label)
        return found[0]
    taught = {p.teacher for p in points if p.teacher}
    for fits in (
        lambda p: p.model in taught,
        lambda p: p.algo != "mcd" and p.round is None,
        lambda p: True,
    ):
        if found := [p.name for p in points if fits(p)]:
            return found[0]
    raise KeyError("no rows")
