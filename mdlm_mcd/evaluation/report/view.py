"""Choose and format what the templates show."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from ..results import Point, Results
from . import compare, paper
from .compare import NELBO

# What no HTML text may hold (C0 and C1 but tab and newline, lone surrogates,
# non-characters), and marks that would turn the direction of what follows.
_UNFIT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\u202a-\u202e\u2066-\u2069]"
)
DIVERSITY = {
    NELBO: "N-step NELBO",
    "entropy": "entropy of a sample",
    "corpus_entropy": "pooled unigram entropy",
    "bigram_entropy": "bigram entropy",
    "bigram_tv": "bigram distance to text",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "distinct_3": "distinct-3",
    "self_bleu": "self-BLEU",
    "mauve": "MAUVE",
}


def clean(text: str) -> str:
    """Return text without what would break a page."""
    return _UNFIT.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def number(x: float) -> str:
    """Return a figure as short as it can be read: 4.3, 57.4, 499, 12,300."""
    if abs(x) >= 1000:
        return f"{x:,.0f}"
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.1f}" if abs(x) >= 10 else f"{x:.3g}"


def signed(x: float, style: str = "+.3f") -> str:
    return format(x, style).replace("-", "−")


def percent(x: float) -> str:
    """Return a ratio as its distance from 1."""
    shown = signed(x - 1, "+.1%")
    return "0.0%" if shown[1:] == "0.0%" else shown


def heading(name: str, temperature: float) -> str:
    return name if temperature == 1 else f"{name}, T\u00a0=\u00a0{temperature:g}"


def listed(values: Iterable) -> str:
    """Return each value once; nothing for those that are None or empty."""
    return ", ".join(dict.fromkeys(str(v) for v in values if v not in (None, "")))


def plain(results: Results, reference: str) -> list[tuple[str, float]]:
    """Return every curve at T = 1, or what is nearest; the reference at all of its own."""
    usual = {n: results.temperatures(n) for n in results.names}
    return [(n, t) for n, of in usual.items() for t in (of if n == reference else of[:1])]


def view(results: Results, reference: str) -> dict:
    """Return the names that the templates use."""
    points, steps = results.points, results.steps
    shown = plain(results, reference)
    every = [(n, t) for n in results.names for t in results.temperatures(n)]
    few = sorted({steps[0], 8 if 8 in steps else steps[0], steps[-1]})
    students = [(n, t) for n, t in shown if n != reference]

    def measured(metric: str) -> bool:
        return any(p.metric(metric) for p in points)

    def lowest(n: int) -> float:
        return min(m.value for p in points if p.steps == n and (m := p.metric(NELBO)))

    def subject() -> list[Point]:
        """Return the last round's points, or the last curve's."""
        order = {n: (results.of(n)[0].round or 0, i) for i, (n, _) in enumerate(students)}
        name = max(order, key=order.__getitem__)
        return results.of(name, results.temperatures(name)[0])

    def matched(point: Point) -> list[tuple[str, compare.Match]]:
        """Return the point's match, and that of the last model which has one if it has none."""
        names = [n for n, _ in reversed(students) if n != point.name]
        found = []
        for name in (point.name, *names):
            other = results.at(name, results.temperatures(name)[0], point.steps)
            match = other and compare.match(results, other, reference)
            if match and (match.ratio or name == point.name):
                found.append((name, match))
            if match and match.ratio:
                break
        return found

    def samples(most: int = 2) -> Iterator[tuple[int, int, list[Point]]]:
        """Yield texts of the same place in the batch: (steps, place, points)."""
        rows = sorted(shown, key=lambda line: line[0] != reference)
        for n in few:
            of = [p for m, t in rows if (p := results.at(m, t, n)) and p.texts]
            for i in range(min(most, max((len(p.texts) for p in of), default=0))):
                yield n, i, [p for p in of if i < len(p.texts)]

    def pairs(key: str) -> str:
        found = (getattr(p, key) or {} for p in points)
        return listed(f"{k} {v}" for of in found for k, v in of.items())

    diverse = {m: title for m, title in DIVERSITY.items() if measured(m)}
    sections = {
        "what": "What was measured",
        "figures": "By sampling steps",
        "paper": "The paper’s Table 1",
        "steps": "Against steps",
        "frontier": "Perplexity against entropy",
        "compared": "At equal quality" if students else "",
        "diversity": "Diversity" if set(diverse) - {NELBO, "entropy"} else "",
        "samples": "Samples side by side",
        "provenance": "Provenance",
    }
    published = paper.published()
    families, beside = paper.families(results, reference), paper.comparable(results, published)
    keys = [key for of in families.values() for key in of]
    rounds = sorted({r for _, r in keys} | set(range(1, 6) if beside else ()))
    recipes = {p.name: p.recipe for p in points if p.recipe}
    return dict(
        results=results,
        base=reference,
        NELBO=NELBO,
        compare=compare,
        paper=paper,
        number=number,
        nats="{:.3f}".format,
        two="{:.2f}".format,
        percent=percent,
        signed=signed,
        heading=heading,
        listed=listed,
        shown=shown,
        every=every,
        rest=[line for line in every if line not in shown],
        students=students,
        few=few,
        sections={key: title for key, title in sections.items() if title},
        diverse={NELBO: DIVERSITY[NELBO], "entropy": DIVERSITY["entropy"], **diverse},
        steps_head=["model", *(f"{n} steps" for n in steps)],
        measured=measured,
        lowest=lowest,
        limit=lambda m, t: next((e for p in results.of(m, t) if (e := p.metric("nelbo"))), None),
        subject=subject,
        matched=matched,
        samples=samples,
        pairs=pairs,
        hosts=lambda: listed(" at ".join(filter(None, (p.host, p.commit))) for p in points),
        recipes=[(n, json.dumps(r, ensure_ascii=False, sort_keys=True)) for n, r in recipes.items()],
        published=published,
        beside=beside,
        families=families,
        paper_steps=sorted({n for n, _ in keys} | set(published["steps"] if beside else ())),
        paper_rounds=rounds,
        paper_head=[f"round {r}" for r in rounds],
        columns=lambda keys: [k for k in keys.split() if any(p.row.get(k) is not None for p in points)],
    )
