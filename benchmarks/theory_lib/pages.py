"""Tables of a question, on the terminal and in its page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mdlm_mcd.errors import ConfigError

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "questions"


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


def markdown(tables: Sequence[Table]) -> str:
    return "\n\n".join(table.markdown() for table in tables)


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


def block(kind: str) -> re.Pattern:
    """Match the tables of `kind` in a page, between their markers."""
    return re.compile(f"(?<=<!-- {kind} -->\n).*?(?=\n<!-- end of {kind} -->)", re.DOTALL)


def read(name: str, kind: str, folder: Path = FOLDER) -> str:
    """Return the tables of `kind` in the page of a question. Raises ConfigError."""
    found = block(kind).findall((folder / f"{name}.md").read_text("utf-8"))
    if len(found) != 1:
        raise ConfigError(f"{name}.md needs <!-- {kind} --> and <!-- end of {kind} --> once each.")
    return found[0]


def write(name: str, kind: str, text: str, folder: Path = FOLDER) -> None:
    """Put tables between their markers; all other text stays."""
    read(name, kind, folder)
    path = folder / f"{name}.md"
    path.write_text(block(kind).sub(lambda _: text, path.read_text("utf-8")), "utf-8")
