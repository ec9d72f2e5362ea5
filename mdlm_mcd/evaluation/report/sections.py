"""What the report says in words: headline, caveats, samples, provenance."""

from __future__ import annotations

import json
from collections.abc import Iterable

from ..results import Point, Results
from . import compare, tables
from .charts import number
from .markup import Markup, el, join

FEW_SAMPLES = 1024


def _listed(values: Iterable) -> str:
    return ", ".join(dict.fromkeys(str(v) for v in values if v not in (None, "")))


def _flat(found: dict | None) -> str:
    return _listed(f"{k} {v}" for k, v in (found or {}).items())


def _plural(n: int, one: str) -> str:
    return f"{n:,} {one}" + ("" if n == 1 else "s")


def _values(results: Results, key: str) -> str:
    return _listed(getattr(p, key) for p in results.points)


def headline(results: Results, reference: str) -> Markup:
    """What was measured, where and how, and what it says in three sentences."""
    points = results.points
    temperatures = sorted({p.temperature for p in points})
    said = (
        f"{_plural(len({p.model for p in points}), 'model')} at "
        f"{_listed(results.steps)} steps and T = "
        f"{_listed(f'{t:g}' for t in temperatures)}: {_plural(len(points), 'point')} "
        f"of {_each(results, 'num_samples')} samples of {_each(results, 'length')} "
        "tokens."
    )
    facts = {
        "drawn in": _values(results, "dtype"),
        "sampler": _values(results, "sampler"),
        "law of the opening times": _values(results, "u_law"),
        "evaluator": _values(results, "evaluator") or "none",
        "seed": _values(results, "seed"),
        "host": _listed(" at ".join(str(v) for v in (p.host, p.commit) if v) for p in points),
        "machine": _listed(_flat(p.machine) for p in points),
        "versions": _listed(_flat(p.versions) for p in points),
        "compared with": reference,
    }
    terms = [join([el("dt", k), el("dd", v)]) for k, v in facts.items() if v]
    return join(
        [
            el("p", said, class_="lead-in"),
            el("ul", *(el("li", s) for s in findings(results, reference)), class_="findings"),
            el("dl", *terms, class_="facts"),
        ]
    )


def _each(results: Results, key: str) -> str:
    return _listed(f"{getattr(p, key):,}" for p in results.points)


def _subject(results: Results, reference: str) -> str | None:
    """Who the sentences are about: the last round, or the last curve."""
    names = [n for n in results.names if n != reference]
    return max(names, key=lambda n: (results.of(n)[0].round or 0, names.index(n)), default=None)


def findings(results: Results, reference: str) -> list[str]:
    """Sentences made of the figures; none where there is nothing to compare."""
    name = _subject(results, reference)
    if name is None:
        return []
    t = results.temperatures(name)[0]
    mine = results.of(name, t)
    said = []
    plain = results.temperatures(reference)[0]
    for p in mine[:1]:
        other = results.at(reference, plain, p.steps)
        a, b = p.metric(tables.NELBO), other and other.metric(tables.NELBO)
        if a and b:
            side = "below" if a.value < b.value else "above"
            said.append(
                f"N-step NELBO at {p.steps} steps: {name} {a.value:.3f} nats, {side} "
                f"{reference}'s {b.value:.3f}. Sharpening a calibrated model can only "
                "raise it."
            )
    middle = next((p for p in mine if p.steps == 8), mine[0])
    said += _at_equal_entropy(results, reference, name, middle)
    reach = compare.steps_at_equal_both(results, middle, reference)
    if reach and reach.kind == "at":
        said.append(
            f"For that perplexity and entropy {reference} needs about "
            f"{reach.steps:.0f} steps: a speed-up of {reach.steps / middle.steps:.1f}."
        )
    return said


def _at_equal_entropy(results: Results, reference: str, name: str, point: Point):
    """The verdict on the last model that has one at that number of steps."""
    names = [n for n in results.names if n not in (reference, name)]
    for other in (name, *reversed(names)):
        p = results.at(other, results.temperatures(other)[0], point.steps)
        found = p and compare.match(results, p, reference)
        if found and found.other is not None:
            yield (
                f"At {p.steps} steps {other} has perplexity {number(found.own.value)} "
                f"at entropy {found.entropy.value:.2f}; {reference}, tempered to the "
                f"same entropy, {number(found.other.value)}: {_in_words(found, other)}."
            )
            return
        if found and other == name:
            yield (
                f"At {p.steps} steps {name} has perplexity {number(found.own.value)} "
                f"at entropy {found.entropy.value:.2f}; no two temperatures of "
                f"{reference} on file span that entropy, so it is not compared there."
            )


def _in_words(found: compare.Match, name: str) -> str:
    if found.verdict == "a tie":
        return "a tie within the intervals"
    by = f"{abs(found.ratio.value - 1):.0%}"
    said = f"{name} is {by} {'lower' if found.ratio.value < 1 else 'higher'}"
    return f"{said}, without an interval" if found.ratio.low is None else said


def forced(results: Results) -> Markup | None:
    """The mark of a section whose rows do not compare."""
    if not results.mixed:
        return None
    keys = ", ".join(results.mixed)
    said = f"Forced: these rows differ in {keys} and do not compare."
    return el("p", said, class_="forced")


def caveats(results: Results, reference: str) -> list[str]:
    """What the figures do not show, as far as the rows tell."""
    points, said = results.points, []
    for key, values in results.mixed.items():
        said.append(
            f"Forced: rows differ in {key} ({', '.join(values)}). Their figures do not "
            "compare; the curves' names say which is which."
        )
    said += results.said
    if any(p.dtype not in ("float64", "torch.float64") for p in points):
        said.append(
            "Not drawn in float64: float32 noise acts like a lower temperature, so "
            "perplexities and entropies come out too low."
        )
    if all(p.metric(tables.NELBO) is None for p in points):
        said.append(
            "The N-step NELBO was not measured, so nothing here rules out that a model "
            "is only sharper."
        )
    fewest = min(p.num_samples for p in points)
    if fewest < FEW_SAMPLES:
        said.append(
            f"{fewest:,} samples a point: few. Intervals are over samples; they know "
            "nothing of another training run or another seed."
        )
    names = [n for n in results.names if n != reference]
    single = [n for n in names if len(results.temperatures(n)) < 2]
    if single and len(results.temperatures(reference)) < 2:
        said.append(
            f"{reference} was sampled at one temperature: nothing is compared at equal entropy."
        )
    if any(p.host == "minihost" or p.length < 256 for p in points):
        said.append(
            "Small models, a small evaluator, short sequences: read orders, not "
            "figures. Perplexity is as good a judge as its evaluator."
        )
    return said


def notes(said: list[str]) -> Markup | None:
    if not said:
        return None
    return el(
        "aside",
        el("h3", "Caveats", id="caveats"),
        el("ul", *(el("li", s) for s in said)),
        class_="caveats",
        aria_labelledby="caveats",
    )


# Samples ----------------------------------------------------------------------------


def few(results: Results) -> list[int]:
    """The fewest steps, 8 of them, and the most, as far as they were taken."""
    steps = results.steps
    return sorted({steps[0], 8 if 8 in steps else steps[0], steps[-1]})


def samples(results: Results, reference: str, most: int = 2) -> Markup:
    """Texts of the same place in the batch, model by model."""
    parts = []
    rows = tables.plain(results, reference)
    for n in few(results):
        points = [p for m, t in rows if (p := results.at(m, t, n)) and p.texts]
        points.sort(key=lambda p: p.name != reference)
        for i in range(min(most, max((len(p.texts) for p in points), default=0))):
            cards = [_card(p, i) for p in points if i < len(p.texts)]
            parts.append(
                el(
                    "details",
                    el("summary", f"{_plural(n, 'step')}, sample {i + 1}"),
                    el("div", *cards, class_="cards"),
                    open=not parts,
                )
            )
    if not parts:
        return el("p", "The rows hold no texts.")
    locked = all(p.sampler == "locked" for p in results.points)
    how = (
        "The sampler is locked: the same place is the same latent, so what differs is the model's."
        if locked
        else "The same place has the same seed; only `locked` makes that the same "
        "latent token by token."
    )
    return join([el("p", how), *parts])


def _card(p: Point, i: int) -> Markup:
    shown = [
        f"{label} {show(m.value)}"
        for key, label, show in (
            (tables.NELBO, "N-step NELBO", tables.nats),
            ("perplexity", "perplexity", number),
            ("entropy", "entropy", "{:.2f}".format),
        )
        if (m := p.metric(key))
    ]
    return el(
        "article",
        el("h4", tables.heading(p.name, p.temperature)),
        el("p", "all samples: " + ", ".join(shown), class_="under") if shown else None,
        el("p", p.texts[i], class_="sample", dir="auto"),
    )


# Provenance -------------------------------------------------------------------------


def _compact(value) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def provenance(results: Results) -> Markup:
    """Every row: what was sampled, how, and where it was read."""
    columns = (
        "steps",
        "temperature",
        "top_p",
        "sampler",
        "u_law",
        "u_step",
        "dtype",
        "seed",
        "num_samples",
        "length",
        "evaluator",
        "evaluations",
        "seconds",
        "checkpoint",
        "sha256",
        "algo",
        "loss",
        "round",
        "teacher",
        "host",
        "commit",
    )
    used = [c for c in columns if any(getattr(p, c) is not None for p in results.points)]

    def shown(p: Point, column: str) -> Markup:
        value = getattr(p, column)
        if value is None:
            return tables.ABSENT
        if column in ("sha256", "commit"):
            return tables.cell(el("code", str(value)))
        if column == "seconds":
            return tables.cell(f"{value:.2f}")
        return tables.cell(str(value))

    rows = [
        tables.row(p.name, *(shown(p, c) for c in used), tables.cell(p.source))
        for p in results.points
    ]
    whole = tables.table(
        "rows", "Every row of the results.", ["model", *used, "read from"], el("tbody", *rows)
    )
    recipes = {p.name: p.recipe for p in results.points if p.recipe}
    terms = [join([el("dt", n), el("dd", el("code", _compact(r)))]) for n, r in recipes.items()]
    return join(
        [
            el("details", el("summary", f"{_plural(len(rows), 'row')}"), whole),
            el("details", el("summary", "Recipes"), el("dl", *terms, class_="facts"))
            if terms
            else None,
        ]
    )
