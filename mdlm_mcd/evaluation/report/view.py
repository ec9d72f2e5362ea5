"""Choose and format what the templates show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import product

from ..frontier import NELBO
from ..intervals import Estimate
from ..results import Point, Results

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
    "nll": "likelihood of text, nats a token",
    "outside_perplexity": "perplexity, second evaluator",
}

nats, two = "{:.3f}".format, "{:.2f}".format


def clean(text: str) -> str:
    """Return text without what would break a page."""
    return _UNFIT.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def number(x: float) -> str:
    """Return a figure as short as it can be read: 4.3, 57.4, 499, 12,300."""
    if abs(x) >= 1000:
        return f"{x:,.0f}"
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.1f}" if abs(x) >= 10 else f"{x:.3g}"


def signed(x: float, form: str = "+.3f") -> str:
    return format(x, form).replace("-", "−")


def percent(x: float) -> str:
    """Return a ratio as its distance from 1."""
    shown = signed(x - 1, "+.1%")
    return "0.0%" if shown[1:] == "0.0%" else shown


def titles(form: str, values: Iterable) -> list[str]:
    return [form.format(value) for value in values]


def heading(name: str, temperature: float) -> str:
    return name if temperature == 1 else f"{name}, T\u00a0=\u00a0{temperature:g}"


def listed(values: Iterable) -> str:
    """Return each value once; nothing for those that are None or empty."""
    return ", ".join(dict.fromkeys(str(v) for v in values if v not in (None, "")))


def plain(results: Results, reference: str) -> list[tuple[str, float]]:
    """Return every curve at T = 1, else its highest; the reference at all of its own."""
    usual = {n: results.temperatures(n) for n in results.names}
    return [(n, t) for n, of in usual.items() for t in (of if n == reference else of[:1])]


def every(results: Results) -> list[tuple[str, float]]:
    """Return every curve at every temperature of its own."""
    return [(n, t) for n in results.names for t in results.temperatures(n)]


def middle(results: Results) -> int:
    """Return 8 steps; the fewest where there are none of 8."""
    return 8 if 8 in results.steps else results.steps[0]


def few(results: Results) -> list[int]:
    """Return the fewest steps, 8 of them, and the most, as far as they were taken."""
    return sorted({results.steps[0], middle(results), results.steps[-1]})


def measured(results: Results) -> dict[str, str]:
    """Return the columns of the diversity table that any row has."""
    return {k: v for k, v in DIVERSITY.items() if any(p.metric(k) for p in results.points)}


def lowest(results: Results, steps: int) -> float | None:
    """Return the lowest N-step NELBO of a column."""
    found = (p.metric(NELBO) for p in results.points if p.steps == steps)
    return min((m.value for m in found if m), default=None)


def limit(points: Iterable[Point]) -> Estimate | None:
    """Return the usual NELBO, which is the same at any number of steps."""
    return next((m for p in points if (m := p.metric("nelbo"))), None)


def columns(results: Results) -> list[str]:
    """Return the keys of rows under which any has a number or a text of its own."""
    found = [
        k for p in results.points for k, v in p.row.items() if isinstance(v, (int, float, str))
    ]
    return [k for k in dict.fromkeys(found) if k not in ("schema", "model")]


def subject(results: Results, reference: str) -> list[Point]:
    """Return the points that the sentences are about: the last round's, or the last curve's.

    Of those with the reference's own sampler and law of u, where there are any.
    """
    names = [n for n in results.names if n != reference]
    of = {name: results.of(name)[0] for name in (*names, reference)}
    usual = of[reference].curve[2:]
    name = max(names, key=lambda n: (of[n].curve[2:] == usual, of[n].round or 0, names.index(n)))
    return results.of(name, results.temperatures(name)[0])


def samples(results: Results, reference: str) -> Iterator[tuple[int, int, list[Point]]]:
    """Yield texts of the same place in the batch, two at most: (steps, place, points)."""
    rows = sorted(plain(results, reference), key=lambda line: line[0] != reference)
    for n, i in product(few(results), range(2)):
        of = [p for m, t in rows if (p := results.at(m, t, n)) and len(p.texts or ()) > i]
        if of:
            yield n, i, of
