"""Say in words what the rows hold: facts, findings and caveats, made of the figures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from ..results import Point, Results
from . import compare
from .compare import NELBO

FEW_SAMPLES = 1024

# What no HTML text may hold (C0 and C1 but tab and newline, lone surrogates,
# non-characters), and marks that would turn the direction of what follows.
_UNFIT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\u202a-\u202e\u2066-\u2069]"
)


def clean(text: str) -> str:
    """Return text without what would break a page."""
    return _UNFIT.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def number(x: float) -> str:
    """Return a figure as short as it can be read: 4.3, 57.4, 499, 12,300."""
    if abs(x) >= 1000:
        return f"{x:,.0f}"
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.1f}" if abs(x) >= 10 else f"{x:.3g}"


def heading(name: str, temperature: float) -> str:
    return name if temperature == 1 else f"{name}, T\u00a0=\u00a0{temperature:g}"


def lines(results: Results) -> list[tuple[str, float]]:
    """Return what has a row in a table: curves, each at a temperature."""
    return [(n, t) for n in results.names for t in results.temperatures(n)]


def plain(results: Results, reference: str, first: bool = False) -> list[tuple[str, float]]:
    """Return every curve at T = 1, or what is nearest; the reference at all of its own.

    first: the reference stands first.
    """
    found = [(n, t) for n, t in lines(results) if n == reference or t == results.temperatures(n)[0]]
    return sorted(found, key=lambda line: line[0] != reference) if first else found


def few(results: Results) -> list[int]:
    """Return the fewest steps, 8 of them, and the most, as far as they were taken."""
    steps = results.steps
    return sorted({steps[0], 8 if 8 in steps else steps[0], steps[-1]})


def plural(n: int, one: str) -> str:
    return f"{n:,} {one}" + ("" if n == 1 else "s")


def _listed(values: Iterable) -> str:
    return ", ".join(dict.fromkeys(str(v) for v in values if v not in (None, "")))


def lead(results: Results) -> str:
    """Return what was measured in one sentence."""
    points = results.points
    samples, length = (
        _listed(f"{getattr(p, key):,}" for p in points) for key in ("num_samples", "length")
    )
    temperatures = _listed(f"{t:g}" for t in sorted({p.temperature for p in points}))
    return (
        f"{plural(len({p.model for p in points}), 'model')} at {_listed(results.steps)} steps and "
        f"T = {temperatures}: {plural(len(points), 'point')} of {samples} samples of {length} tokens."
    )


def facts(results: Results, reference: str) -> dict[str, str]:
    """Return where and how it was measured."""

    def each(key: str) -> str:
        return _listed(getattr(p, key) for p in results.points)

    def flat(key: str) -> str:
        found = (getattr(p, key) or {} for p in results.points)
        return _listed(", ".join(f"{k} {v}" for k, v in of.items()) for of in found)

    hosts = (" at ".join(str(v) for v in (p.host, p.commit) if v) for p in results.points)
    found = {
        "drawn in": each("dtype"),
        "sampler": each("sampler"),
        "law of the opening times": each("u_law"),
        "evaluator": each("evaluator") or "none",
        "seed": each("seed"),
        "host": _listed(hosts),
        "machine": flat("machine"),
        "versions": flat("versions"),
        "compared with": reference,
    }
    return {key: value for key, value in found.items() if value}


def findings(results: Results, reference: str) -> list[str]:
    """Return sentences made of the figures of the last round, or of the last curve."""
    names = [n for n in results.names if n != reference]
    if not names:
        return []
    name = max(names, key=lambda n: (results.of(n)[0].round or 0, names.index(n)))
    mine, said = results.of(name, results.temperatures(name)[0]), []
    other = results.at(reference, results.temperatures(reference)[0], mine[0].steps)
    a, b = mine[0].metric(NELBO), other and other.metric(NELBO)
    if a and b:
        side = "below" if a.value < b.value else "above"
        said.append(
            f"N-step NELBO at {mine[0].steps} steps: {name} {a.value:.3f} nats, {side} "
            f"{reference}'s {b.value:.3f}. Sharpening a calibrated model can only raise it."
        )
    middle = next((p for p in mine if p.steps == 8), mine[0])
    others = [n for n in reversed(names) if n != name]
    said += _at_equal_entropy(results, reference, [name, *others], middle.steps)
    reach = compare.steps_at_equal("frontier", results, middle, reference)
    if reach and reach.kind == "at":
        said.append(
            f"For that perplexity and entropy {reference} needs about {reach.steps:.0f} steps: "
            f"a speed-up of {reach.steps / middle.steps:.1f}."
        )
    return said


def _at_equal_entropy(results: Results, reference: str, names: list[str], steps: int):
    """Yield the verdict on the first model that has one at that number of steps."""
    for name in names:
        point = results.at(name, results.temperatures(name)[0], steps)
        found = point and compare.match(results, point, reference)
        if not found:
            continue
        begin = (
            f"At {steps} steps {name} has perplexity {number(found.perplexity)} at entropy "
            f"{found.entropy:.2f}; "
        )
        if found.other is not None:
            yield (
                f"{begin}{reference}, tempered to the same entropy, {number(found.other)}: "
                f"{_verdict(found, name)}."
            )
            return
        if name == names[0]:
            yield (
                f"{begin}no two temperatures of {reference} on file span that entropy, so it is "
                "not compared there."
            )


def _verdict(found: compare.Match, name: str) -> str:
    if found.verdict == "a tie":
        return "a tie within the intervals"
    ratio = found.ratio.value
    said = f"{name} is {abs(ratio - 1):.0%} {'lower' if ratio < 1 else 'higher'}"
    return said + ", without an interval" * (found.verdict == "no interval")


def caveats(results: Results, reference: str) -> list[str]:
    """Return what the figures do not show, as far as it follows from the rows."""
    points = results.points
    fewest = min(p.num_samples for p in points)
    once = {n for n in results.names if len(results.temperatures(n)) < 2}
    by_condition = [
        (
            any(p.dtype not in ("float64", "torch.float64") for p in points),
            "Not drawn in float64: float32 noise acts like a lower temperature, so perplexities "
            "and entropies come out too low.",
        ),
        (
            all(p.metric(NELBO) is None for p in points),
            "The N-step NELBO was not measured, so nothing here rules out that a model is only "
            "sharper.",
        ),
        (
            fewest < FEW_SAMPLES,
            f"{fewest:,} samples a point: few. Intervals are over samples; they know nothing of "
            "another training run or another seed.",
        ),
        (
            reference in once and len(once) > 1,
            f"{reference} was sampled at one temperature: nothing is compared at equal entropy.",
        ),
        (
            any(p.host == "minihost" or p.length < 256 for p in points),
            "Small models, a small evaluator, short sequences: read orders, not figures. "
            "Perplexity is as good a judge as its evaluator.",
        ),
    ]
    mixed = (
        f"Forced: rows differ in {key} ({', '.join(values)}). Their figures do not compare; the "
        "curves' names say which is which."
        for key, values in results.mixed.items()
    )
    return [*mixed, *results.said, *(said for holds, said in by_condition if holds)]


def samples(results: Results, reference: str, most: int = 2):
    """Yield (steps, number, points with that text): the same place in the batch."""
    rows = plain(results, reference, first=True)
    for n in few(results):
        points = [p for m, t in rows if (p := results.at(m, t, n)) and p.texts]
        for i in range(min(most, max((len(p.texts) for p in points), default=0))):
            yield n, i, [p for p in points if i < len(p.texts)]


def summary(point: Point) -> str:
    """Return a point's figures over all of its samples."""
    kinds = (
        (NELBO, "N-step NELBO {:.3f}".format),
        ("perplexity", lambda x: f"perplexity {number(x)}"),
        ("entropy", "entropy {:.2f}".format),
    )
    return ", ".join(show(m.value) for key, show in kinds if (m := point.metric(key)))


def recipes(results: Results) -> dict[str, str]:
    """Return each curve's recipe as JSON."""
    found = {p.name: p.recipe for p in results.points if p.recipe}
    return {n: json.dumps(r, ensure_ascii=False, sort_keys=True) for n, r in found.items()}
