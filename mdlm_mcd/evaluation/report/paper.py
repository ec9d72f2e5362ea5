"""The paper's Table 1: re-made from the rows at hand, and as it was published."""

from __future__ import annotations

import json
from importlib.resources import files

from ..results import Point, Results
from .charts import number
from .markup import Markup, el, join
from .tables import ABSENT, NELBO, body, cell, figure, nats, row, table


def published() -> dict:
    """Figures of the paper's Table 1, and how far they are to be trusted."""
    return json.loads((files(__package__) / "published.json").read_text("utf-8"))


def comparable(results: Results, paper: dict) -> bool:
    """Whether the paper's figures were measured as these were."""
    return all(
        p.length == paper["length"] and str(p.evaluator or "").split("/")[-1] == paper["evaluator"]
        for p in results.points
    )


def section(results: Results, reference: str) -> Markup:
    """Table 1 re-made; beside it, or apart where they do not compare, the paper's."""
    paper = published()
    beside = comparable(results, paper)
    trust = paper["precision"]
    why = (
        f"Suspected precision of the published figures: {trust['suspected']}, although "
        f"the paper says {trust['stated']}: {trust['why']}. Those of Duo are from "
        "another teacher, of unknown precision."
    )
    if beside:
        return join([table_one(results, reference, paper, True), el("p", why, class_="grey")])
    return join(
        [
            table_one(results, reference, paper, False),
            el(
                "details",
                el("summary", "The paper’s own figures: another model, text and evaluator"),
                el(
                    "p",
                    "They stand apart, since rows at hand with another length or "
                    f"evaluator do not compare with them. {why}",
                    class_="grey",
                ),
                published_table(paper),
            ),
        ]
    )


def _family(point: Point) -> str:
    extra = point.name[len(point.model) :]
    return f"{(point.algo or 'student').upper()} {point.loss or ''}".strip() + extra


def _three(point: Point | None) -> Markup:
    """NELBO, perplexity and entropy of a point, in one cell."""
    if point is None:
        return ABSENT
    shown = [
        el("div", figure(m, show), class_=class_)
        for name, show, class_ in (
            (NELBO, nats, "first"),
            ("perplexity", number, None),
            ("entropy", "{:.2f}".format, "under"),
        )
        if (m := point.metric(name))
    ]
    return cell(*shown) if shown else ABSENT


def _published_rows(published: dict, steps: int):
    """Grey rows of the paper, teacher and rounds as its columns."""
    if steps not in published["steps"]:
        return
    column = published["steps"].index(steps)
    for algo, name in (("mcd", "MCD"), ("sdtt", "SDTT"), ("duo", "Duo")):
        of = [r for r in published["rows"] if r["algo"] == algo and r["round"]]
        base = "duo" if algo == "duo" else "mdlm"
        teacher = next(r for r in published["rows"] if r["algo"] == base and r["round"] is None)
        cells = [
            cell(f"{r['perplexity'][column]:.2f}")
            for r in (teacher, *sorted(of, key=lambda r: r["round"]))
        ]
        said = join([f"{name}, published ", el("small", of[0]["precision"])])
        yield row(said, *cells, class_="published")


def table_one(results: Results, reference: str, published: dict, beside: bool) -> Markup:
    """The paper's Table 1 from the rows at hand; its own figures beside, in grey."""
    students = [
        p
        for p in results.points
        if p.round is not None
        and p.name != reference
        and p.temperature == results.temperatures(p.name)[0]
    ]
    families = list(dict.fromkeys(_family(p) for p in students))
    rounds = sorted({p.round for p in students})
    if beside:
        rounds = sorted({*rounds, 1, 2, 3, 4, 5})
    steps = sorted({p.steps for p in students} | set(published["steps"] * beside))
    plain = results.temperatures(reference)[0]
    bodies, single = [], []
    for n in steps:
        rows = []
        for family in families:
            by_round = {p.round: p for p in students if p.steps == n and _family(p) == family}
            if by_round:
                cells = [_three(by_round.get(r)) for r in rounds]
                teacher = results.at(reference, plain, n)
                rows.append(row(f"{family}, measured", _three(teacher), *cells))
                single.append(row(f"{n} steps", _three(teacher), *cells))
        rows += _published_rows(published, n) if beside else ()
        bodies.append(body(f"{n} steps", len(rounds) + 2, rows))
    single_family = len(families) == 1 and not beside
    if single_family:
        bodies = [el("tbody", *single)]
    if not any(bodies):
        return el("p", "No row at hand belongs to a round of distillation.")
    grey = (
        f" In grey, without a NELBO or an entropy, since it gives none: {published['source']}."
        if beside
        else ""
    )
    return table(
        "table1",
        f"Table 1 of the paper, re-made for {', '.join(families) or 'no student'}: "
        "N-step NELBO, perplexity and under it entropy, by round of distillation."
        f"{grey}",
        ["steps" if single_family else "method", reference, *(f"round {r}" for r in rounds)],
        *bodies,
    )


def published_table(published: dict) -> Markup:
    """The paper's Table 1 as published."""
    bodies = [body(f"{n} steps", 7, _published_rows(published, n)) for n in published["steps"]]
    return table(
        "published",
        f"{published['source']}: {published['setting']}.",
        ["method", "teacher", *(f"round {r}" for r in range(1, 6))],
        *bodies,
    )
