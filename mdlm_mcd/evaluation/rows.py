"""Check, read and append rows of measurements; see docs/report.md for the schema."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..checkpoints import sanitize
from ..checkpoints.files import check_overwrite, check_writable
from ..errors import border, shown

SCHEMA = 1
HEAD = b'{"schema": '  # how each row begins
REQUIRED = "model steps temperature sampler dtype seed num_samples length metrics".split()
POSITIVE = ("steps", "temperature", "num_samples", "length")
PARTS = ("value", "low", "high")  # of a figure in `metrics`

_NUMBER = (int, float)
_TEXT = "model sampler dtype evaluator checkpoint sha256 algo loss teacher host commit u_law"
_KEYS = {
    str: [*_TEXT.split(), "corpus_sha256"],
    int: ["steps", "seed", "num_samples", "length", "round", "bound_rows", "batch_size"],
    _NUMBER: ["temperature", "temperature_end", "top_p", "seconds", "evaluations"],
    dict: ["metrics", "recipe", "versions", "machine", "corpus"],
    list: ["texts"],
    bool: ["stratified"],
    (*_NUMBER, str): ["u_step"],
}
KINDS: dict[str, Any] = {key: kind for kind, keys in _KEYS.items() for key in keys}


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def finite(x: Any) -> bool:
    """Return whether it is a number, and finite."""
    return _is(x, _NUMBER) and math.isfinite(x)


def fault(row: Any) -> str:
    """Return what keeps a value from being a row of a sweep; empty for a row."""
    if not isinstance(row, dict):
        return "is no row of results, which has to be a JSON object"
    if row.get("schema", SCHEMA) != SCHEMA:
        return f"has schema {shown(repr(row['schema']))}, and this version reads {SCHEMA}"
    for key, kind in KINDS.items():
        value: Any = row.get(key)
        if key in REQUIRED and key not in row:
            return f"has no {key!r}"
        if not (_is(value, kind) or (value is None and key not in REQUIRED)):
            return f"has {key} = {shown(repr(value))}, which is of the wrong kind"
        if key in POSITIVE and not (finite(value) and value > 0):
            return f"has {key} = {shown(repr(value))}, which has to be above 0"
    for name, metric in row["metrics"].items():
        if not _is_figure(name, metric or {}):
            return (
                f"has metrics.{shown(name)} = {shown(repr(metric))}, which has to be an object "
                "of numbers value, low and high, of a perplexity above 0"
            )
    return ""


def _is_figure(name: str, metric: Any) -> bool:
    if not isinstance(metric, dict):
        return False
    parts = [x for part in PARTS if (x := metric.get(part)) is not None]
    return all(_is(x, _NUMBER) and not (name == "perplexity" and x <= 0) for x in parts)


class Line(NamedTuple):
    """A line of a results file; `fault` says why it is no row."""

    text: bytes
    where: str
    row: Any = None
    fault: str = ""
    is_json: bool = True

    @property
    def is_cut(self) -> bool:
        """Return whether it is the beginning of a row, as an interrupted write leaves it."""
        whole = self.is_json or self.text.endswith((b"\n", b"\r"))
        return not whole and HEAD.startswith(self.text[: len(HEAD)])


def lines(path: Path, name: str = "line") -> list[Line]:
    """Return the lines that are not blank; raises OSError."""
    found = []
    # As bytes: JSON leaves U+2028, a line end of `str.splitlines`, as it is.
    for number, text in enumerate(sanitize.read_bytes(path).splitlines(keepends=True), 1):
        if text.strip():
            where = f"{name} {number}"
            try:
                row = sanitize.loads(text.decode("utf-8", errors="replace"))
                why = fault(row)
                found.append(Line(text, where, row, why and f"{where} {why}"))
            except ValueError:
                found.append(Line(text, where, fault=f"{where} is no JSON", is_json=False))
    return found


def existing(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a results file, if there is one; skip what is no row."""
    return [line.row for line in lines(path) if not line.fault] if path.exists() else []


def resumed(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a results file to go on with.

    A last line that an interruption cut short is taken out of it. Raises ConfigError
    where there is another line that no sweep wrote, or it cannot be written; the file is
    then left as it was.
    """
    setting = f"--out {path}"
    check_writable(setting, path.parent)
    check_overwrite(setting, path, _foreign)
    found = lines(path) if path.exists() else []
    if found:
        last = found[-1]
        with border(f"{setting} cannot be written", "name another file"), path.open("r+b") as file:
            file.seek(-len(last.text) if last.fault else 0, os.SEEK_END)
            file.truncate()
            if not last.fault and not last.text.endswith(b"\n"):
                file.write(b"\n")
    return [line.row for line in found if not line.fault]


def _foreign(path: Path) -> str:
    """Return why a file is no results file to go on with; empty where it is one."""
    found = lines(path)
    if found and found[-1].is_cut:
        found.pop()
    return next((line.fault for line in found if line.fault), "")


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Write one whole line to the disk, or leave what there was before."""
    # A label may hold bytes of a file's name that are no text: as JSON's escapes.
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
