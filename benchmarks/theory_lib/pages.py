"""Tables of a question, as they stand in its page of docs/design/questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """header: as in Markdown, ` | ` between columns; cells: strings, or numbers in four digits."""

    caption: str
    header: str
    rows: Sequence[Sequence[object]]

    def markdown(self) -> str:
        cells = [self.header.split(" | "), *([*map(shown, row)] for row in self.rows)]
        cells.insert(1, ["---", *["---:"] * (len(cells[0]) - 1)])
        lines = ["| " + " | ".join(row) + " |" for row in cells]
        return "\n".join([f"*{self.caption}*", "", *lines])


def shown(cell) -> str:
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int):
        return f"{cell:,}"
    if abs(cell) < 1e-12:  # rounding of what is 0
        return "0"
    if 1e-3 <= abs(cell) < 1e4:
        return f"{cell:.4f}" if abs(cell) < 100 else f"{cell:,.1f}"
    return f"{cell:.2e}"
