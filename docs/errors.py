"""Writes docs/errors.md: `python docs/errors.py`.

The sentences are read from the source, where they are raised, and gathered under the
entries of `docs/catalogue.py`. Nothing is imported but that.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import catalogue

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "errors.md"
ANY = "…"

INTRO = """\
# Errors

Written by `python docs/errors.py` from the sentences in the source.

What this package raises on purpose is an `MCDError` (`mdlm_mcd.errors`): `ConfigError`
for a setting, `CheckpointError` for a file of weights, `DivergenceError` and
`TeacherError` and `UnfinishedError` for a run. The embedded host has a root of its own,
`ConfigError`. On the command line each ends in one sentence and exit status 1, without a
traceback, which HYDRA_FULL_ERROR=1 shows; so do the refusals of Hydra and Lightning. Of
a sweep (`-m`) the other jobs run, and its status is 1 at the end. Here an ellipsis
stands for names and values.
"""


def matches(entry: catalogue.Entry, sentence: str) -> bool:
    """Whether a sentence, with its values or with ellipses for them, is the entry's."""
    return any(
        re.search(".*".join(map(re.escape, says.split(ANY))), sentence, re.DOTALL)
        for says in entry.says
    )


def entries() -> list[catalogue.Entry]:
    return [entry for some in catalogue.SECTIONS.values() for entry in some]


def _text(node: ast.expr) -> str:
    """A string as it is written, with an ellipsis for whatever is put in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return ANY


def _calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and node.args:
            yield getattr(node.func, "id", getattr(node.func, "attr", "")), node


def sentences() -> dict[str, str]:
    """{sentence: file and class} of our errors, and of the doctor's findings."""
    sources = sorted(ROOT.glob("mdlm_mcd/**/*.py"))
    kinds = {
        node.name
        for path in sources
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef)
        and {"MCDError", "ConfigError"}
        & {node.name, *(getattr(base, "id", "") for base in node.bases)}
    }
    found = {}
    for path in [*sources, *sorted(ROOT.glob("hydra_plugins/*.py"))]:
        for name, call in _calls(path):
            told = call.args[-1] if name == "Finding" else call.args[0]
            if name == "Finding" and ast.unparse(call.args[1]) == "OK":
                continue
            if name not in {*kinds, "Finding", "SystemExit"}:
                continue
            text = _text(told)
            # Others hand on what was said elsewhere.
            if len(re.findall(r"[a-z]{2,}", text)) >= 3:
                found[text] = f"{path.relative_to(ROOT).as_posix()}: {name}"
    return found


def page() -> str:
    """The text of docs/errors.md."""
    said = sorted(sentences())
    parts = [INTRO]
    for title, some in catalogue.SECTIONS.items():
        parts.append(f"\n## {title}\n")
        for entry in some:
            own = [text for text in said if matches(entry, text)]
            lines = "\n".join([*own, *entry.also])
            parts.append(
                f"\n### {entry.slug}\n\n"
                f"{textwrap.fill(f'{entry.meaning} {entry.remedy}', 90)}\n\n"
                f"```text\n{lines}\n```\n"
            )
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
