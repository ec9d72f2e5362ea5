"""Check, read and append rows of measurements; see docs/report.md for the schema.

A results file is JSON lines, one row a point: a model at a number of steps and a
temperature.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from ..checkpoints import sanitize
from ..checkpoints.files import check_overwrite, check_writable
from ..errors import ConfigError, shown

SCHEMA = 1
_NUMBER = (int, float)
REQUIRED = {
    "model": str,
    "steps": int,
    "temperature": _NUMBER,
    "sampler": str,
    "dtype": str,
    "seed": int,
    "num_samples": int,
    "length": int,
    "metrics": dict,
}
OPTIONAL = {
    "evaluator": str,
    "checkpoint": str,
    "sha256": str,
    "algo": str,
    "loss": str,
    "round": int,
    "recipe": dict,
    "teacher": str,
    "host": str,
    "commit": str,
    "versions": dict,
    "machine": dict,
    "u_law": str,
    "top_p": _NUMBER,
    "seconds": _NUMBER,
    "evaluations": _NUMBER,
    "corpus": dict,
    "texts": list,
    "corpus_sha256": str,
    "bound_rows": int,
    "batch_size": int,
}
POSITIVE = ("steps", "temperature", "num_samples", "length")


def finite(x) -> bool:
    """Return whether it is a number, and finite."""
    return _is(x, _NUMBER) and math.isfinite(x)


def _is(value, kind) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _repr(value) -> str:
    return shown(repr(value))


def check(row, where: str) -> None:
    """Raise ConfigError for a row that is not one of ours."""
    if not isinstance(row, dict):
        raise ConfigError(f"{where} is no row of results: it has to be a JSON object.")
    if row.get("schema", SCHEMA) != SCHEMA:
        raise ConfigError(
            f"{where} has schema {_repr(row['schema'])}, and this version of mdlm-mcd "
            f"reads {SCHEMA}: write it again with `mdlm-mcd sweep`."
        )
    if missing := [key for key in REQUIRED if key not in row]:
        raise ConfigError(f"{where} has no {missing[0]!r}: it is no row of a sweep.")
    for key, kind in (REQUIRED | OPTIONAL).items():
        optional = key in OPTIONAL and row.get(key) is None
        if not (optional or _is(row[key], kind)):
            raise ConfigError(f"{where}: {key} = {_repr(row[key])} is of the wrong kind.")
    for key in POSITIVE:
        if not (finite(row[key]) and row[key] > 0):
            raise ConfigError(f"{where}: {key} = {_repr(row[key])} has to be above 0.")
    for name, metric in row["metrics"].items():
        if not isinstance(metric or {}, dict):
            raise ConfigError(
                f"{where}: metrics.{shown(name)} = {_repr(metric)} has to be an object "
                "with value, low and high."
            )
        for part in ("value", "low", "high"):
            x = (metric or {}).get(part)
            if x is not None and not _is(x, _NUMBER):
                raise ConfigError(
                    f"{where}: metrics.{shown(name)}.{part} = {_repr(x)} is no number."
                )
            if name == "perplexity" and x is not None and x <= 0:
                raise ConfigError(
                    f"{where}: metrics.perplexity.{part} = {_repr(x)} has to be above 0."
                )


class Line(NamedTuple):
    """A line of a results file; `fault` says why it is no row (empty: it is one)."""

    text: bytes
    where: str
    row: Any
    fault: str


NO_JSON = "is no JSON"
HEAD = b'{"schema": '  # how each row begins


def lines(path: Path, name: str = "line") -> list[Line]:
    """Return the lines that are not blank; raises OSError."""
    found = []
    # As bytes: JSON leaves U+2028, a line end of `str.splitlines`, as it is.
    for number, text in enumerate(sanitize.read_bytes(path).splitlines(keepends=True), 1):
        if not text.strip():
            continue
        where, row, fault = f"{name} {number}", None, ""
        try:
            row = sanitize.loads(text.decode("utf-8", errors="replace"))
            check(row, where)
        except ConfigError as error:
            fault = str(error).rstrip(".")
        except ValueError:
            fault = f"{where} {NO_JSON}"
        found.append(Line(text, where, row, fault))
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
    if not found:
        return []
    cut = _cut(found)
    try:
        with path.open("r+b") as file:
            file.seek(-len(cut), os.SEEK_END)
            file.truncate()
            if not cut and not found[-1].text.endswith(b"\n"):
                file.write(b"\n")
    except OSError as error:
        raise ConfigError(
            f"{setting} cannot be written ({error.strerror}): name another file."
        ) from error
    return [line.row for line in found if not line.fault]


def _foreign(path: Path) -> str:
    """Return why a file is no results file to go on with; empty where it is one."""
    found = lines(path)
    faults = [line.fault for line in found if line.fault]
    return "" if not faults or (len(faults) == 1 and _cut(found)) else faults[0]


def _cut(found: list[Line]) -> bytes:
    """Return the last line where it is the beginning of a row, else nothing."""
    last = found[-1]
    if last.text.endswith((b"\n", b"\r")) or not last.fault.endswith(NO_JSON):
        return b""
    first = HEAD if len(found) == 1 else found[0].text[: min(len(HEAD), len(last.text))]
    return last.text if last.text.startswith(first) else b""


def append(path: Path, row: dict[str, Any]) -> None:
    """Write one whole line to the disk, or leave what there was before."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
