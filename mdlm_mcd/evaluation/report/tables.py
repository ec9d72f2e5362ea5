"""The report's tables. The N-step NELBO, which no sharpening fools, stands first."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..results import Estimate, Point, Results
from . import compare
from .charts import number
from .markup import Markup, el, join

NELBO = "n_step_nelbo"
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
ABSENT = el(
    "td",
    el("span", "–", aria_hidden="true"),
    el("span", "not measured", class_="unseen"),
    class_="absent",
)


def table(key: str, caption, head: Iterable, *bodies) -> Markup:
    """A captioned table in a region of its own that scrolls, also by keyboard."""
    content = el(
        "table",
        el("caption", el("span", caption), id=key),
        el("thead", el("tr", *(el("th", h, scope="col") for h in head))),
        *bodies,
    )
    return el("div", content, class_="scroll", role="region", aria_labelledby=key, tabindex=0)


def body(title, columns: int, rows: Iterable) -> Markup | None:
    """Rows under a heading of their own; None without rows.

    Rows of nothing but absent figures are one that says so.
    """
    rows = list(rows)
    if not rows:
        return None
    if all(r.count("<td") == r.count(ABSENT) for r in rows):
        rows = [el("tr", el("td", "not measured", colspan=columns, class_="none"))]
    heading = el("th", el("span", title), scope="rowgroup", colspan=columns)
    return el("tbody", el("tr", heading, class_="group"), *rows)


def row(head, *cells, class_=None) -> Markup:
    return el("tr", el("th", head, scope="row"), *cells, class_=class_)


def nats(x: float) -> str:
    return f"{x:.3f}"


def interval(e: Estimate, show: Callable[[float], str]) -> Markup | None:
    if e.low is None:
        return None
    between = " to " if show is _percent else "–"
    return el("small", show(e.low) + between + show(e.high), class_="ci")


def figure(e: Estimate, show: Callable[[float], str], class_="value") -> Markup:
    return join([el("span", show(e.value), class_=class_), interval(e, show)])


def cell(*parts, class_=None) -> Markup:
    return el("td", *parts, class_=class_)


Lines = list[tuple[str, float]]
"""What has a row: curves, each at a temperature."""


def lines(results: Results) -> Lines:
    return [(n, t) for n in results.names for t in results.temperatures(n)]


def plain(results: Results, reference: str) -> Lines:
    """Every curve at T = 1, or what is nearest; the reference at all of its own."""
    return [(n, t) for n, t in lines(results) if n == reference or t == results.temperatures(n)[0]]


def heading(name: str, temperature: float) -> str:
    return name if temperature == 1 else f"{name}, T\u00a0=\u00a0{temperature:g}"


# The main table ---------------------------------------------------------------------


def _best(results: Results, steps: int) -> float | None:
    """The lowest N-step NELBO of a column."""
    found = [p.metric(NELBO) for p in results.points if p.steps == steps]
    return min((e.value for e in found if e), default=None)


def _nelbo_cells(results: Results, name: str, t: float):
    for n in results.steps:
        point = results.at(name, t, n)
        found = point and point.metric(NELBO)
        if found:
            best = found.value == _best(results, n)
            yield cell(figure(found, nats, "value best" if best else "value"))
        else:
            yield ABSENT
    limit = [m for p in results.of(name, t) if (m := p.metric("nelbo"))]
    yield cell(figure(limit[0], nats)) if limit else ABSENT


def _quality_cell(point: Point | None) -> Markup:
    perplexity = point and point.metric("perplexity")
    entropy = point and point.metric("entropy")
    if not (perplexity or entropy):
        return ABSENT
    missing = el("span", "–", class_="value")
    two = "{:.2f}".format
    return cell(
        el("div", figure(perplexity, number) if perplexity else missing),
        el("div", figure(entropy, two) if entropy else missing, class_="under"),
    )


def main_table(results: Results, rows: Lines, key: str = "quality") -> Markup:
    """N-step NELBO, then perplexity with entropy under it, by steps."""
    steps = results.steps
    width = len(steps) + 2
    head = ["model", *(f"{n} steps" for n in steps), "∞ steps"]
    losses = (row(heading(n, t), *_nelbo_cells(results, n, t)) for n, t in rows)
    quality = [
        row(
            heading(n, t),
            *(_quality_cell(results.at(n, t, s)) for s in steps),
            cell(class_="absent"),
        )
        for n, t in rows
    ]
    own = [results.of_text("perplexity"), results.of_text("entropy")]
    if own[0] is not None or own[1] is not None:
        said = " / ".join(
            f"{label} {show(v)}"
            for label, v, show in (
                ("perplexity", own[0], number),
                ("entropy", own[1], "{:.2f}".format),
            )
            if v is not None
        )
        quality.append(row("held-out text", el("td", said, colspan=width - 1), class_="text"))
    return table(
        key,
        "By sampling steps, with 95% intervals over samples. Bold: the column's lowest "
        "N-step NELBO. ∞ steps: the usual NELBO, the limit of many steps.",
        head,
        body(
            "N-step NELBO, nats a token of held-out text: lower is better; sharpening "
            "a calibrated model can only raise it",
            width,
            losses,
        ),
        body(
            "Generative perplexity, and under it the unigram entropy of a sample in "
            "nats: read them together",
            width,
            quality,
        ),
    )


# Comparisons ------------------------------------------------------------------------


def _percent(x: float) -> str:
    shown = f"{x - 1:+.1%}".replace("-", "−")
    return shown[1:] if shown[1:] == "0.0%" else shown


def _match_cell(found: compare.Match | None) -> Markup:
    if found is None:
        return ABSENT
    if found.ratio is None:
        return cell(
            el("span", "not reached", class_="not"),
            el("small", f"entropy {found.entropy.value:.2f}"),
        )
    said = el("span", f"{_percent(found.ratio.value)}", class_="value")
    pair = f"{number(found.own.value)} against {number(found.other.value)}"
    versus = el("small", f"{pair} at {found.entropy.value:.2f}")
    around = interval(found.ratio, _percent)
    return cell(said, around, el("small", found.verdict, class_="verdict"), versus)


def _nelbo_difference(results: Results, name: str, t: float, reference: str, n: int):
    plain = results.temperatures(reference)[0]
    pair = results.at(name, t, n), results.at(reference, plain, n)
    a, b = (p and p.metric(NELBO) for p in pair)
    if not (a and b):
        return ABSENT
    return cell(el("span", f"{a.value - b.value:+.3f}".replace("-", "−"), class_="value"))


def equal_entropy(results: Results, reference: str, rows: Lines, key="equal"):
    """Each point against the reference tempered to the point's own entropy."""
    steps = results.steps
    width = len(steps) + 1
    return table(
        key,
        f"Against {reference} at the same number of steps. Perplexity is compared at "
        f"equal entropy: {reference}'s is interpolated between its temperatures, "
        "log-linearly, and never beyond them.",
        ["model", *(f"{n} steps" for n in steps)],
        body(
            f"N-step NELBO minus that of {reference}, in nats: below 0 is better",
            width,
            (
                row(heading(m, t), *(_nelbo_difference(results, m, t, reference, n) for n in steps))
                for m, t in rows
            ),
        ),
        body(
            "Perplexity at equal entropy: below 0 is better",
            width,
            (
                row(
                    heading(m, t),
                    *(
                        _match_cell(p and compare.match(results, p, reference))
                        for p in (results.at(m, t, n) for n in steps)
                    ),
                )
                for m, t in rows
            ),
        ),
    )


def _reach_cell(found: compare.Reach | None, n: int) -> Markup:
    if found is None:
        return ABSENT
    if found.kind == "apart":
        return cell(el("span", "not reached", class_="not"), el("small", "no such entropy"))
    ratio = f"{found.steps / n:.1f}×"
    if found.kind == "not":
        return cell(
            el("span", "not reached", class_="not"),
            el("small", f"in {found.steps:g} steps (more than {ratio})"),
        )
    if found.kind == "within":
        return cell(
            el("span", f"at most {ratio}", class_="value"),
            el("small", f"there at {found.steps:g} steps or fewer"),
        )
    return cell(el("span", ratio, class_="value"), el("small", f"{found.steps:.0f} steps"))


def speed_up(results: Results, reference: str, rows: Lines, key="speed") -> Markup:
    """How many more steps the reference needs for what a point has."""
    steps = results.steps
    kinds = (
        ("At equal N-step NELBO", compare.steps_at_equal_nelbo),
        ("At equal perplexity, whatever the entropy", compare.steps_at_equal_perplexity),
        ("At equal perplexity and entropy", compare.steps_at_equal_both),
    )
    bodies = []
    for title, how in kinds:
        made = []
        for m, t in rows:
            points = [results.at(m, t, n) for n in steps]
            found = [p and how(results, p, reference) for p in points]
            if any(found):
                cells = (_reach_cell(f, n) for f, n in zip(found, steps, strict=True))
                made.append(row(heading(m, t), *cells))
        bodies.append(body(title, len(steps) + 1, made))
    if not any(bodies):
        return el("p", "Nothing to compare: there is one model, or no figure.")
    return table(
        key,
        f"Steps that {reference} needs, over the steps of the point. Between measured "
        "numbers of steps it is interpolated, log-log; it is never extrapolated.",
        ["model", *(f"{n} steps" for n in steps)],
        *bodies,
    )


# Diversity --------------------------------------------------------------------------


def diversity(
    results: Results, rows: Lines, steps: Iterable[int], key: str = "diversity-few"
) -> Markup | None:
    """What per-sample entropy hides, beside the same of held-out text."""
    present = [m for m in DIVERSITY if any(p.metric(m) is not None for p in results.points)]
    if not present:
        return None
    columns = [NELBO, "entropy", *present]
    titles = ["N-step NELBO", "entropy of a sample", *(DIVERSITY[m] for m in present)]
    show = "{:.3f}".format
    own = [
        ABSENT if (v := results.of_text(m)) is None else cell(el("span", show(v))) for m in columns
    ]
    bodies = [el("tbody", row("held-out text", *own, class_="text"))]
    for n in steps:
        made = []
        for m, t in rows:
            if point := results.at(m, t, n):
                found = (point.metric(k) for k in columns)
                cells = (cell(figure(e, show)) if e else ABSENT for e in found)
                made.append(row(heading(m, t), *cells))
        bodies.append(body(f"{n} steps", len(columns) + 1, made))
    return table(
        key,
        "Entropies in nats; distinct-n: different n-grams over all n-grams; self-BLEU: "
        "how much samples resemble each other. Close to the text's own is good.",
        ["model", *titles],
        *bodies,
    )
