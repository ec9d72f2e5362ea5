"""Compare a point with the reference: at equal entropy, and by steps at equal quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ..frontier import Place, Reach, at_equal, log_ratio_error, reach
from ..intervals import Estimate
from ..results import Point, Results

NELBO = "n_step_nelbo"


def place(point: Point) -> Place | None:
    """Return entropy and perplexity with half their 95% intervals; None without both."""
    perplexity, entropy = point.metric("perplexity"), point.metric("entropy")
    if perplexity is None or entropy is None:
        return None
    errors = [None, None]
    if perplexity.low is not None and entropy.low is not None:
        errors = [
            (entropy.high - entropy.low) / 2,
            (math.log(perplexity.high) - math.log(perplexity.low)) / 2,
        ]
    return Place(entropy.value, perplexity.value, *errors, point.correlation)


def frontier(results: Results, name: str, steps: int) -> list[Place]:
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
        if self.ratio.low is None:
            return "no interval"
        if self.ratio.low <= 1 <= self.ratio.high:
            return "a tie"
        return "better" if self.ratio.value < 1 else "worse"


def match(results: Results, point: Point, reference: str) -> Match | None:
    """Return None where perplexity or entropy were not measured."""
    own = place(point)
    if own is None:
        return None
    curve = frontier(results, reference, point.steps)
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
        curves = ((n, frontier(results, reference, n)) for n in steps)
        return reach([(n, at_entropy(curve, own.x)) for n, curve in curves], own.y)
    own = point.metric(metric)
    if own is None:
        return None
    plain = results.temperatures(reference)[0]
    found = ((p.steps, p.metric(metric)) for p in results.of(reference, plain))
    return reach([(n, m.value) for n, m in found if m], own.value)


def reference_of(results: Results, label: str | None = None) -> str:
    """Return the curve that others are compared with: the one asked for, or the teacher.

    Raises KeyError for a label that no row has.
    """
    points = results.points
    taught = {p.teacher for p in points if p.teacher}
    kinds = (
        lambda p: p.model in taught,
        lambda p: p.algo != "mcd" and p.round is None,
        lambda p: True,
    )
    for fits in kinds if label is None else [lambda p: label in (p.name, p.model)]:
        if found := [p.name for p in points if fits(p)]:
            return found[0]
    raise KeyError(label)
