"""Tables and sentences of a question, on the terminal and in its page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mdlm_mcd.errors import ConfigError

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "questions"


@dataclass(frozen=True)
class Table:
    """rows: strings, or numbers that are shown with four digits."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]

    def markdown(self) -> str:
        cells = [[shown(cell) for cell in row] for row in (self.header, *self.rows)]
        cells.insert(1, ["---", *["---:"] * (len(self.header) - 1)])
        lines = ["| " + " | ".join(row) + " |" for row in cells]
        return "\n".join([f"*{self.caption}*", "", *lines])


@dataclass(frozen=True)
class Outcome:
    """What an experiment found: tables, and what they say, for or against."""

    tables: Sequence[Table]
    says: str

    def markdown(self) -> str:
        parts = [table.markdown() for table in self.tables]
        return "\n\n".join([*parts, f"**{self.says}**"])


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


def block(page: str, kind: str) -> re.Pattern:
    """The place of `kind`'s tables in a page, the markers included.

    Raises ConfigError where the page has none, or more than one.
    """
    begin, end = f"<!-- {kind} -->", f"<!-- end of {kind} -->"
    found = re.compile(re.escape(begin) + r"\n(.*?)" + re.escape(end), re.DOTALL)
    if len(found.findall(page)) != 1:
        raise ConfigError(
            f"a page of docs/questions needs '{begin}' and '{end}' once each, where "
            "benchmarks/theory.py writes its tables."
        )
    return found


def held(name: str, kind: str, folder: Path = FOLDER) -> str:
    """What the page of a question holds of `kind`."""
    page = (folder / f"{name}.md").read_text("utf-8")
    return block(page, kind).search(page)[1].strip()


def write(name: str, kind: str, outcome: Outcome, folder: Path = FOLDER) -> None:
    """Put an outcome between its markers; all other text stays."""
    path = folder / f"{name}.md"
    page = path.read_text("utf-8")
    text = f"<!-- {kind} -->\n{outcome.markdown()}\n<!-- end of {kind} -->"
    path.write_text(block(page, kind).sub(lambda _: text, page), "utf-8")
