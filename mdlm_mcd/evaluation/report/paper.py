"""Lay out the paper's Table 1: made anew from the rows, and as it was published."""

from __future__ import annotations

import json
from importlib.resources import files

from ..results import Point, Results
from .tables import NELBO, Cell, Row, Table, figure, metric, nats, number, two


def published() -> dict:
    """Return the figures of the paper's Table 1, and how far they are to be trusted."""
    return json.loads((files(__package__) / "published.json").read_text("utf-8"))


def comparable(results: Results, paper: dict) -> bool:
    """Return whether the paper's figures were measured as these were."""
    return all(
        p.length == paper["length"] and str(p.evaluator or "").split("/")[-1] == paper["evaluator"]
        for p in results.points
    )


def _three(point: Point | None) -> Cell:
    """Return NELBO, perplexity and entropy of a point, in one cell."""
    kinds = ((NELBO, nats, "value"), ("perplexity", number, "value"), ("entropy", two, "value under"))
    parts = (figure(metric(point, name), show, kind) for name, show, kind in kinds)
    return [line for part in parts if part for line in part] or None


def _published_rows(paper: dict, steps: int):
    """Yield rows of the paper, teacher and rounds as their columns."""
    column = paper["steps"].index(steps)
    for algo, base in (("mcd", "mdlm"), ("sdtt", "mdlm"), ("duo", "duo")):
        of = {r["round"]: r for r in paper["rows"] if r["algo"] == algo and r["round"]}
        teacher = next(r for r in paper["rows"] if r["algo"] == base and r["round"] is None)
        found = [teacher, *(of[k] for k in sorted(of))]
        cells = [[(two(r["perplexity"][column]), "value")] for r in found]
        yield Row(f"{of[1]['name']}, published ({of[1]['precision']})", cells, "published")


def published_table(paper: dict) -> Table:
    """Return the paper's Table 1 as published."""
    bodies = [(f"{n} steps", list(_published_rows(paper, n))) for n in paper["steps"]]
    head = ["method", "teacher", *(f"round {r}" for r in range(1, 6))]
    return Table("published", f"{paper['source']}: {paper['setting']}.", head, bodies)


def table_one(results: Results, reference: str, paper: dict, beside: bool) -> Table | None:
    """Return the paper's Table 1 from these rows; beside: with its own figures, in grey."""
    students: dict[str, dict[tuple, Point]] = {}
    for p in results.points:
        plain = p.temperature == results.temperatures(p.name)[0]
        if p.round is not None and p.name != reference and plain:
            family = f"{(p.algo or 'student').upper()} {p.loss or ''}".strip()
            family += p.name[len(p.model) :]
            students.setdefault(family, {})[p.steps, p.round] = p
    steps, rounds = (sorted({key[i] for of in students.values() for key in of}) for i in (0, 1))
    if beside:
        steps, rounds = sorted({*steps, *paper["steps"]}), sorted({*rounds, 1, 2, 3, 4, 5})
    if not steps:
        return None
    bodies = []
    for n in steps:
        teacher = results.at(reference, results.temperatures(reference)[0], n)
        rows = [
            Row(f"{family}, measured", [_three(p) for p in (teacher, *(of.get((n, r)) for r in rounds))])
            for family, of in students.items()
            if any(key[0] == n for key in of)
        ]
        if beside and n in paper["steps"]:
            rows += _published_rows(paper, n)
        bodies.append((f"{n} steps", rows))
    first = "method"
    if len(students) == 1 and not beside:
        # One family: a row a number of steps.
        first, bodies = "steps", [("", [rows[0]._replace(head=n) for n, rows in bodies])]
    grey = "In grey, without a NELBO or an entropy, since it gives none: "
    return Table(
        "table1",
        f"Table 1 of the paper, re-made for {', '.join(students) or 'no student'}: N-step NELBO, "
        "perplexity and under it entropy, by round of distillation."
        + (f" {grey}{paper['source']}." if beside else ""),
        [first, reference, *(f"round {r}" for r in rounds)],
        bodies,
    )
