"""Lay out the report's tables: the N-step NELBO, which no sharpening lowers, stands first.

A cell is a list of (text, class of style.css), or None for what was not measured; where a
row has too few cells the last one is wide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..intervals import Estimate
from ..results import Point, Results
from . import compare
from .compare import NELBO
from .text import heading, number

DIVERSITY = {
    "corpus_entropy": "pooled unigram entropy",
    "bigram_entropy": "bigram entropy",
    "bigram_tv": "bigram distance to text",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "distinct_3": "distinct-3",
    "self_bleu": "self-BLEU",
    "mauve": "MAUVE",
}
PROVENANCE = (
    "steps temperature temperature_end top_p sampler u_law u_step dtype seed num_samples length "
    "evaluator evaluations seconds checkpoint sha256 algo loss round teacher host commit"
).split()

Cell = list[tuple[str, str]] | None
Lines = list[tuple[str, float]]


class Row(NamedTuple):
    head: str
    cells: list[Cell]
    kind: str = ""


class Table(NamedTuple):
    """bodies: (title, rows); those without rows are left out."""

    key: str
    caption: str
    head: list[str]
    bodies: list[tuple[str, list[Row]]]


def nats(x: float) -> str:
    return f"{x:.3f}"


def two(x: float) -> str:
    return f"{x:.2f}"


def percent(x: float) -> str:
    shown = f"{x - 1:+.1%}".replace("-", "−")
    return "0.0%" if shown[1:] == "0.0%" else shown


def figure(e: Estimate | None, show: Callable[[float], str], kind: str = "value") -> Cell:
    """Return a figure and under it its interval."""
    if e is None:
        return None
    between = " to " if show is percent else "–"
    around = [] if e.low is None else [(show(e.low) + between + show(e.high), "ci")]
    return [(show(e.value), kind), *around]


def metric(point: Point | None, name: str) -> Estimate | None:
    return None if point is None else point.metric(name)


def quality(point: Point | None) -> Cell:
    """Return perplexity, and under it entropy."""
    perplexity, entropy = metric(point, "perplexity"), metric(point, "entropy")
    if not (perplexity or entropy):
        return None
    missing = [("–", "value")]
    above = figure(perplexity, number) or missing
    return above + (figure(entropy, two, "value under") or missing)


def by_steps(results: Results, rows: Lines, cell: Callable[[str, float, int], Cell]) -> list[Row]:
    return [Row(heading(m, t), [cell(m, t, n) for n in results.steps]) for m, t in rows]


def main_table(results: Results, rows: Lines, key: str = "quality") -> Table:
    """Return N-step NELBO, then perplexity with entropy under it, by steps."""
    best: dict[int, float] = {}
    for p in results.points:
        if e := p.metric(NELBO):
            best[p.steps] = min(e.value, best.get(p.steps, e.value))

    def nelbo(m: str, t: float, n: int) -> Cell:
        e = metric(results.at(m, t, n), NELBO)
        return e and figure(e, nats, "value best" if e.value == best[n] else "value")

    losses = by_steps(results, rows, nelbo)
    for (m, t), row in zip(rows, losses, strict=True):
        row.cells.append(figure(next(filter(None, (p.metric("nelbo") for p in results.of(m, t))), None), nats))
    qualities = by_steps(results, rows, lambda m, t, n: quality(results.at(m, t, n)))
    for row in qualities:
        row.cells.append([])
    own = (("perplexity", number), ("entropy", two))
    known = [f"{k} {show(v)}" for k, show in own if (v := results.of_text(k)) is not None]
    if known:
        qualities.append(Row("held-out text", [[(" / ".join(known), "value")]], "text"))
    return Table(
        key,
        "By sampling steps, with 95% intervals over samples. Bold: the column's lowest N-step "
        "NELBO. ∞ steps: the usual NELBO, the limit of many steps.",
        ["model", *(f"{n} steps" for n in results.steps), "∞ steps"],
        [
            (
                "N-step NELBO, nats a token of held-out text: lower is better; sharpening a "
                "calibrated model can only raise it",
                losses,
            ),
            (
                "Generative perplexity, and under it the unigram entropy of a sample in nats: "
                "read them together",
                qualities,
            ),
        ],
    )


def equal_entropy(results: Results, reference: str, rows: Lines, key: str = "equal") -> Table:
    """Return each point against the reference tempered to the point's own entropy."""
    plain = results.temperatures(reference)[0]

    def difference(m: str, t: float, n: int) -> Cell:
        a, b = (metric(results.at(*x, n), NELBO) for x in ((m, t), (reference, plain)))
        return a and b and [(f"{a.value - b.value:+.3f}".replace("-", "−"), "value")]

    def ratio(m: str, t: float, n: int) -> Cell:
        point = results.at(m, t, n)
        found = point and compare.match(results, point, reference)
        if not found:
            return None
        if found.other is None:
            return [("not reached", "soft"), (f"entropy {found.entropy:.2f}", "small")]
        pair = f"{number(found.perplexity)} against {number(found.other)} at {found.entropy:.2f}"
        return [*figure(found.ratio, percent), (found.verdict, "small"), (pair, "small")]

    return Table(
        key,
        f"Against {reference} at the same number of steps. Perplexity is compared at equal "
        f"entropy: {reference}'s is interpolated between its temperatures, log-linearly, and "
        "never beyond them.",
        ["model", *(f"{n} steps" for n in results.steps)],
        [
            (
                f"N-step NELBO minus that of {reference}, in nats: below 0 is better",
                by_steps(results, rows, difference),
            ),
            ("Perplexity at equal entropy: below 0 is better", by_steps(results, rows, ratio)),
        ],
    )


def _reached(found: compare.Reach | None, n: int) -> Cell:
    if found is None:
        return None
    if found.kind == "apart":
        return [("not reached", "soft"), ("no such entropy", "small")]
    ratio = f"{found.steps / n:.1f}×"
    if found.kind == "not":
        said = f"in {found.steps:g} steps (more than {ratio})"
        return [("not reached", "soft"), (said, "small")]
    if found.kind == "within":
        said = f"there at {found.steps:g} steps or fewer"
        return [(f"at most {ratio}", "value"), (said, "small")]
    return [(ratio, "value"), (f"{found.steps:.0f} steps", "small")]


def speed_up(results: Results, reference: str, rows: Lines, key: str = "speed") -> Table:
    """Return how many more steps the reference needs for what a point has."""
    bodies = []
    for title, what in (
        ("At equal N-step NELBO", NELBO),
        ("At equal perplexity, whatever the entropy", "perplexity"),
        ("At equal perplexity and entropy", "frontier"),
    ):

        def cell(m: str, t: float, n: int, what: str = what) -> Cell:
            point = results.at(m, t, n)
            return point and _reached(compare.steps_at_equal(what, results, point, reference), n)

        bodies.append((title, [row for row in by_steps(results, rows, cell) if any(row.cells)]))
    return Table(
        key,
        f"Steps that {reference} needs, over the steps of the point. Between measured numbers "
        "of steps it is interpolated, log-log; it is never extrapolated.",
        ["model", *(f"{n} steps" for n in results.steps)],
        bodies,
    )


def diversity(results: Results, rows: Lines, steps: Iterable[int], key: str) -> Table | None:
    """Return what per-sample entropy hides, beside the same of held-out text."""
    present = [m for m in DIVERSITY if any(p.metric(m) for p in results.points)]
    if not present:
        return None
    columns = {NELBO: "N-step NELBO", "entropy": "entropy of a sample"}
    columns |= {m: DIVERSITY[m] for m in present}
    own = [None if (v := results.of_text(m)) is None else [(nats(v), "value")] for m in columns]
    bodies = [("", [Row("held-out text", own, "text")])]
    for n in steps:
        points = [(heading(m, t), results.at(m, t, n)) for m, t in rows]
        made = [Row(h, [figure(p.metric(k), nats) for k in columns]) for h, p in points if p]
        bodies.append((f"{n} steps", made))
    return Table(
        key,
        "Entropies in nats; distinct-n: different n-grams over all n-grams; self-BLEU: how much "
        "samples resemble each other. Close to the text's own is good.",
        ["model", *columns.values()],
        bodies,
    )


def provenance(results: Results) -> Table:
    """Return every row: what was sampled, how, and where it was read."""
    used = [c for c in PROVENANCE if any(getattr(p, c) is not None for p in results.points)]

    def shown(p: Point, column: str) -> Cell:
        value = getattr(p, column)
        if value is None:
            return None
        text = f"{value:.2f}" if column == "seconds" else str(value)
        return [(text, "code" if column in ("sha256", "commit") else "value")]

    rows = [
        Row(p.name, [*(shown(p, c) for c in used), [(p.source, "value")]]) for p in results.points
    ]
    return Table("rows", "Every row of the results.", ["model", *used, "read from"], [("", rows)])
