"""The paper's Table 1: as it was published, and what of these rows belongs in it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.resources import files

from ..results import Point, Results


def published() -> dict:
    """Return the figures of the paper's Table 1, and how far they are to be trusted."""
    return json.loads((files(__package__) / "published.json").read_text("utf-8"))


def comparable(rows: Iterable[dict], paper: dict) -> bool:
    """Return whether the paper's figures were measured as these rows were."""
    return all(
        row["length"] == paper["length"]
        and str(row.get("evaluator")).split("/")[-1] == paper["evaluator"]
        for row in rows
    )


def rows(paper: dict, steps: int) -> list[list[dict]]:
    """Return the paper's methods at one number of steps, each its teacher and rounds.

    What is returned are rows of `published`, with `value` at these steps.
    """
    if steps not in paper["steps"]:
        return []
    column = paper["steps"].index(steps)
    by = {(r["algo"], r["round"]): {**r, "value": r["perplexity"][column]} for r in paper["rows"]}
    methods = (("mcd", "mdlm"), ("sdtt", "mdlm"), ("duo", "duo"))
    return [[by[base, None], *(by[algo, k] for k in range(1, 6))] for algo, base in methods]


def families(results: Results, reference: str) -> dict[str, dict[tuple[int, int], Point]]:
    """Return rounds of distillation by method, at their plain temperature: {(steps, round)}."""
    found: dict[str, dict] = {}
    for p in results.points:
        plain = p.temperature == results.temperatures(p.name)[0]
        if p.round is not None and p.name != reference and plain:
            method = f"{(p.algo or 'student').upper()} {p.loss or ''}".strip()
            found.setdefault(method + p.name[len(p.model) :], {})[p.steps, p.round] = p
    return found
