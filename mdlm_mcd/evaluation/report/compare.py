"""Two models at equal entropy, and steps saved at equal quality; no extrapolation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..frontier import Place, at_equal, log_ratio_error
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


def _temperatures(results: Results, name: str, steps: int) -> list[Point]:
    """A curve's points at one number of steps that have both figures."""
    return [
        p
        for p in results.of(name)
        if p.steps == steps and p.metric("entropy") and p.metric("perplexity")
    ]


def frontier(results: Results, name: str, steps: int) -> list[tuple[float, Estimate]]:
    """(entropy, perplexity) of a curve's temperatures at one number of steps."""
    found = _temperatures(results, name, steps)
    return [(p.metric("entropy").value, p.metric("perplexity")) for p in found]


@dataclass(frozen=True)
class Match:
    """A point against the reference at the point's own entropy.

    ratio: the point's perplexity over the reference's, with its 95% interval
    (`spread`), or without one where the rows do not tell how their errors hang
    together.
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
    error = spread(point, _temperatures(results, reference, point.steps))
    if error is None:
        return Match(own, entropy, other, Estimate(ratio))
    error = math.exp(error)
    return Match(own, entropy, other, Estimate(ratio, ratio / error, ratio * error))


def spread(point: Point, curve: Sequence[Point]) -> float | None:
    """Half the 95% interval of log(point's perplexity / the curve's at its entropy).

    None where a figure that is needed is missing.
    """
    return log_ratio_error(_place(point), [_place(p) for p in curve])


def _place(p: Point) -> Place:
    perplexity, entropy = p.metric("perplexity"), p.metric("entropy")
    errors = [None, None]
    if perplexity.low is not None and entropy.low is not None:
        errors = [
            (entropy.high - entropy.low) / 2,
            (math.log(perplexity.high) - math.log(perplexity.low)) / 2,
        ]
    return Place(entropy.value, perplexity.value, *errors, p.correlation)


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
