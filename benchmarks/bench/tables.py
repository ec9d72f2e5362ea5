"""Markdown of the figures: matrices of method by step count."""

from __future__ import annotations

import math
from collections.abc import Callable

from .methods import MCD, Method
from .verdict import AXES, OUTCOMES, Figures, Interval, Place, interval, reference

GAP = "–"


def percent(found: Interval | None) -> str:
    """A log ratio as a change in percent with its interval."""
    if found is None:
        return GAP

    def of(x: float) -> str:
        change = 100 * math.expm1(x)
        return f"{change:+.0f}" if abs(change) >= 9.95 else f"{change:+.1f}"

    if found.low is None:
        return f"{of(found.mean)}%"
    return f"{of(found.mean)}% [{of(found.low)}, {of(found.high)}]"


def nats(found: Interval | None) -> str:
    if found is None:
        return GAP
    if found.low is None:
        return f"{found.mean:+.3f}"
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def number(x: float) -> str:
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}" if x >= 20 else f"{x:.2f}"


def matrix(
    figures: Figures, cell: Callable[[Method, Place], str], skip: tuple[str, ...] = ()
) -> list[str]:
    """A table of methods by places; a row of nothing but gaps is left out."""
    places = figures.places
    lines = ["| | " + " | ".join(map(str, places)) + " |", "| --- |" + " ---: |" * len(places)]
    for method in figures.methods:
        cells = [cell(method, place) for place in places]
        if method.name in skip or all(c == GAP for c in cells):
            continue
        name = f"**{method.name}**" if method.name == MCD else method.name
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def level(figures: Figures, method: Method, place: Place, round=None) -> str:
    """Perplexity (geometric mean over seeds), N-step NELBO and the three entropies."""
    found = interval(figures.of("perplexity", method.name, place, round).values())
    if found is None:
        return GAP

    def mean(metric: str, digits: int) -> str:
        mine = interval(figures.of(metric, method.name, place, round).values())
        return GAP if mine is None else f"{mine.mean:.{digits}f}"

    entropies = (mean(m, 2) for m in ("entropy", "corpus_entropy", "bigram_entropy"))
    return f"{number(math.exp(found.mean))}; {mean('n_step_nelbo', 3)}; " + " / ".join(entropies)


def against(figures: Figures, measure: str, other: str | None = MCD):
    """A cell: the method's difference to `other` (None: its own teacher)."""
    said = nats if measure == "n_step_nelbo" else percent

    def cell(method: Method, place: Place) -> str:
        base = other or reference(method)
        if method.name == base:
            return GAP
        found = figures.against(measure, method.name, base, place)
        text = said(found)
        if other != MCD or found is None:
            return text
        return f"{text} {OUTCOMES[found.sign]}".strip()

    return cell


def at_equal(figures: Figures, measure: str):
    """A cell: perplexity over the tempered teacher's, and what MCD's makes of it."""

    def cell(method: Method, place: Place) -> str:
        values = figures.relative(AXES[measure], method.name, place)
        if not values:
            return GAP
        text = percent(interval(values.values()))
        if method.name == MCD:
            return text
        found = figures.against(measure, method.name, MCD, place)
        return f"{text} {OUTCOMES[found.sign] if found else ''}".strip()

    return cell


def by_round(figures: Figures) -> list[str]:
    """The student of every round at the one place where rounds are sampled."""
    lines = []
    for method in figures.methods:
        rounds = figures.rounds(method.name)
        if not rounds:
            continue
        place = next(
            p for p in figures.places if figures.of("perplexity", method.name, p, rounds[0])
        )
        cells = [level(figures, method, place, k) for k in rounds]
        cells.append(level(figures, method, place))
        if not lines:
            names = [f"round {k}" for k in (*rounds, rounds[-1] + 1)]
            lines = [
                f"| at {place} steps | " + " | ".join(names) + " |",
                "| --- |" + " ---: |" * len(names),
            ]
        lines.append(f"| {method.name} | " + " | ".join(cells) + " |")
    return lines


def part(figures: Figures) -> list[str]:
    """All tables of a part, as lines of markdown."""
    tempered = tuple(
        m.name
        for m in figures.methods
        if m.group == "tempered teacher" and not isinstance(m.temperature, tuple)
    )
    blocks = [
        (
            "Figures: perplexity; N-step NELBO; entropy of a sample / pooled / "
            "conditional of bigrams, in nats",
            matrix(figures, lambda m, p: level(figures, m, p)),
        ),
        (
            "At equal entropy: perplexity against the tempered teacher's; win, tie or "
            "loss of MCD against the row",
            matrix(figures, at_equal(figures, "perplexity at equal entropy"), tempered),
        ),
        (
            "At equal conditional bigram entropy, the same",
            matrix(figures, at_equal(figures, "perplexity at equal bigram entropy"), tempered),
        ),
        (
            "N-step NELBO minus MCD's, nats a token",
            matrix(figures, against(figures, "n_step_nelbo")),
        ),
        (
            "N-step NELBO minus its teacher's (T = 1)",
            matrix(figures, against(figures, "n_step_nelbo", None)),
        ),
        ("Raw perplexity against MCD's", matrix(figures, against(figures, "perplexity"))),
        (
            "Raw perplexity against its teacher's (T = 1)",
            matrix(figures, against(figures, "perplexity", None)),
        ),
        ("Every round: perplexity; N-step NELBO; entropies", by_round(figures)),
    ]
    lines = []
    for title, table in blocks:
        if len(table) > 2:
            lines += [f"### {title}", "", *table, ""]
    if figures.stopped:
        lines += ["### Not measured", ""]
        lines += [f"- {name}: {why}" for name, why in figures.stopped.items()] + [""]
    return lines
