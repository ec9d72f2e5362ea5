"""Find the sampling precision of a published curve, by the teacher in both.

Published generative perplexities mix float32 and float64 draws: the noise of float32
acts like a lower temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from rich.table import Table

from .plan import Plan, Setting
from .report.paper import comparable

DTYPES = ("float32", "float64")


class Verdict(NamedTuple):
    """One number of steps; matches: the dtypes whose interval holds the figure."""

    steps: int
    measured: dict[str, dict[str, float]]
    entropy: dict[str, float]
    published: float | None
    matches: tuple[str, ...]

    @property
    def said(self) -> str:
        if self.published is None:
            return "no published figure"
        if len(self.matches) == 1:
            return f"matches {self.matches[0]}"
        return "matches both" if self.matches else "matches neither"


def plan(of: Plan) -> Plan:
    """Return the teacher at temperature 1 by the hosts' sampler, in both precisions.

    `ancestral` and no other: in float32 its races are the hosts', mask included.
    """
    steps = sorted({point.steps for point in of.points})
    points = [Setting("ancestral", steps=n, dtype=d) for n in steps for d in DTYPES]
    return replace(of, points=tuple(points))


def verdicts(rows: Sequence[dict[str, Any]], published: dict[str, Any]) -> list[Verdict]:
    """Compare the teacher's rows with published figures of the same length and evaluator.

    published: as `report/published.json`.
    """
    teacher = next(r for r in published["rows"] if r["algo"] == "mdlm" and r["round"] is None)
    out = []
    for steps in sorted({row["steps"] for row in rows}):
        of = {r["dtype"]: r for r in rows if r["steps"] == steps}
        known = dict(zip(published["steps"], teacher["perplexity"], strict=True))
        figure = known.get(steps) if comparable(of.values(), published) else None
        measured = {d: r["metrics"]["perplexity"] for d, r in of.items()}
        matches = tuple(
            d for d, m in measured.items() if figure is not None and m["low"] <= figure <= m["high"]
        )
        entropy = {d: r["metrics"]["entropy"]["value"] for d, r in of.items()}
        out.append(Verdict(steps, measured, entropy, figure, matches))
    return out


def table(found: Sequence[Verdict]) -> Table:
    """Return the verdicts: perplexity, its interval and entropy in both precisions."""
    shown = Table(title="The teacher's perplexity / entropy by sampling precision")
    for name in ("steps", *DTYPES, "published", "which"):
        shown.add_column(name, justify="right")
    for v in found:
        cells = []
        for dtype in DTYPES:
            m, said = v.measured.get(dtype), "-"
            if m is not None:
                said = f"{m['value']:.1f} [{m['low']:.1f}, {m['high']:.1f}] / "
                said += f"{v.entropy[dtype]:.3f}"
            cells.append(said)
        figure = "-" if v.published is None else f"{v.published:.2f}"
        shown.add_row(str(v.steps), *cells, figure, v.said)
    return shown
