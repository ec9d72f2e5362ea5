"""The report's figures: curves over steps, and the frontier."""

from __future__ import annotations

import math

from ..results import Estimate, Point, Results
from . import tables
from .charts import Axis, Curve, Dot, axis, number, panel, swatch
from .markup import Markup, el

PALETTE, RAMP = 8, 5  # colour classes c0.. and r0.. of style.css


def looks(results: Results, reference: str) -> dict[str, tuple[str, int]]:
    """Colour class and marker of each curve.

    Rounds of one distillation are a ramp from light to dark; otherwise every curve
    has a colour of its own. The reference is slate, as in the paper.
    """
    first = {n: results.of(n)[0] for n in results.names if n != reference}
    rounds = [p.round for p in first.values() if p.round is not None]
    ramp = len(rounds) > 1 and len(set(rounds)) == len(rounds)
    out = {reference: ("c0", 1)}
    free = 1
    for k, (name, point) in enumerate(first.items()):
        marker = (0, 2, 3, 4, 5, 1)[k % 6] + 6 * (k // 6 % 2)
        if ramp and point.round is not None:
            place = sorted(rounds).index(point.round)
            shade = round(place * (RAMP - 1) / (len(rounds) - 1))
            out[name] = (f"r{shade}", marker)
        else:
            out[name] = (f"c{1 + (free - 1) % (PALETTE - 1)}", marker)
            free += 1
    return out


def _shown(results: Results, reference: str) -> list[tuple[str, float]]:
    """Every curve at its plain temperature, the reference at all of its own."""
    rows = [(reference, t) for t in results.temperatures(reference)]
    rows += [(n, results.temperatures(n)[0]) for n in results.names if n != reference]
    return rows


def _curve(results: Results, name: str, t: float, metric: str, look, reference):
    dots = [Dot(Estimate(p.steps), m) for p in results.of(name, t) if (m := p.metric(metric))]
    label = tables.heading(name, t)
    return Curve(label, *look[name], dots, dashed=name == reference and t != 1)


def _legend(curves: list[Curve]) -> Markup:
    unique = {c.name: c for c in curves}
    items = (el("li", swatch(c), el("span", n)) for n, c in unique.items())
    return el("ul", *items, class_="legend")


def over_steps(results: Results, reference: str) -> Markup:
    """N-step NELBO, perplexity and entropy over steps: the paper's Figure 3 is the
    second."""
    look, panels, drawn = looks(results, reference), [], []
    for metric, title, log in (
        ("n_step_nelbo", "N-step NELBO (nats a token)", False),
        ("perplexity", "generative perplexity", True),
        ("entropy", "entropy of a sample (nats)", False),
    ):
        curves = [
            c
            for n, t in _shown(results, reference)
            if (c := _curve(results, n, t, metric, look, reference)).dots
        ]
        if not curves:
            continue
        own = results.of_text(metric) if metric != "n_step_nelbo" else None
        values = [d.y for c in curves for d in c.dots]
        values += [Estimate(own)] if own is not None and (own > 0 or not log) else []
        steps = [Estimate(n) for n in results.steps]
        x = axis("sampling steps", steps, log=True, ticks=_thin(results.steps))
        y = axis(title, values, log=log)
        mark = (own, "held-out text") if own is not None else None
        drawn += curves
        panels.append(_framed(panel(f"steps-{metric}", title, x, y, curves, reference=mark), title))
    if not panels:
        return el("p", "No figure over steps: none was measured.")
    return el(
        "figure",
        _legend(drawn),
        el("div", *panels, class_="panels"),
        el(
            "figcaption",
            "Over sampling steps, logarithmic; perplexity too. Bars: 95% intervals. "
            "Students at T = 1 where that was sampled; dashed: "
            f"{reference} at other temperatures.",
        ),
    )


def _framed(chart: Markup, title: str) -> Markup:
    return el("div", el("p", title, class_="panel-title"), chart, class_="panel")


def _thin(steps: list[int]) -> list[int]:
    """At most eight of them, the last one always."""
    every = -(-len(steps) // 8)
    return steps[::-1][::every][::-1]


def _frontier_dots(points: list[Point]) -> list[Dot]:
    return [
        Dot(e, p, f"T = {q.temperature:g}")
        for q in points
        if (e := q.metric("entropy")) and (p := q.metric("perplexity"))
    ]


def _air(a: Axis) -> float:
    """The axis' length in its own scale."""
    return math.log(a.high / a.low) if a.log else a.high - a.low


def frontier(results: Results, reference: str) -> Markup:
    """Perplexity against entropy: a panel a number of steps, a point a temperature."""
    look = looks(results, reference)
    by_steps: dict[int, list[Curve]] = {}
    for n in results.steps:
        for name in [reference, *(m for m in results.names if m != reference)]:
            dots = _frontier_dots([p for p in results.of(name) if p.steps == n])
            if dots:
                by_steps.setdefault(n, []).append(
                    Curve(name, *look[name], dots, noted=name == reference)
                )
    curves = [c for found in by_steps.values() for c in found]
    if not curves:
        return el("p", "No frontier: no point has both perplexity and entropy.")
    text = [results.of_text(k) for k in ("entropy", "perplexity")]
    star = None if None in text or min(text) <= 0 else (*text, "held-out text")
    dots = [d for c in curves for d in c.dots]
    x, y = _frontier_axes(dots)
    outside = ""
    if star:
        wide = _frontier_axes([*dots, Dot(Estimate(star[0]), Estimate(star[1]))])
        # Far from the samples it would squeeze them into a corner.
        if all(_air(b) < 1.5 * _air(a) for a, b in zip((x, y), wide, strict=True)):
            x, y = wide
        else:
            outside = f" Held-out text lies outside: {number(star[1])} at {star[0]:.2f} nats."
            star = None
    panels = [
        _framed(_frontier_panel(n, x, y, found, star), f"{n} steps")
        for n, found in by_steps.items()
    ]
    return el(
        "figure",
        _legend(curves),
        el("div", *panels, class_="panels"),
        el(
            "figcaption",
            "Perplexity (logarithmic) against entropy: one panel a number of steps, "
            "one curve a model, one point a temperature, from low (left) to high; "
            f"{reference}'s are written beside it. Lower and "
            "further right is better: equal entropy at a lower perplexity. All panels "
            f"have the same axes.{outside}",
        ),
    )


def _frontier_axes(dots: list[Dot]) -> tuple[Axis, Axis]:
    x = axis("entropy of a sample (nats)", [d.x for d in dots])
    return x, axis("perplexity", [d.y for d in dots], log=True)


def _frontier_panel(n: int, x: Axis, y: Axis, curves: list[Curve], star) -> Markup:
    title = f"Perplexity against entropy at {n} steps"
    return panel(f"frontier-{n}", title, x, y, curves, star=star)
