"""Containers, strings and numbers out of files, made safe to keep and to print."""

from __future__ import annotations

import codecs
import errno
import json
import os
import stat
from typing import Any

MOST_NODES = 50_000
MOST_LETTERS = 50_000_000
DEEPEST = 100
MOST_JSON = 1 << 26  # bytes; the table of a sharded model of 70B has some 60,000


def copy(value: Any, unwrap=lambda value: value) -> Any:
    """A copy that holds dicts with text keys, lists, text, numbers, and else None.

    unwrap: called on each value first. Text is made valid Unicode, integers beyond 64
    bits become None. Raises ValueError for what is nested deeper than DEEPEST or, where
    parts are shared, grows beyond MOST_NODES values: a copy has no shared parts.
    """
    left = [MOST_NODES, MOST_LETTERS]

    def text(value: str) -> str:
        left[1] -= len(value)
        return value.encode("utf-8", "replace").decode()

    def visit(value, depth: int):
        value = unwrap(value)
        left[0] -= 1
        if min(left) < 0 or depth > DEEPEST:
            raise ValueError("its config is nested or repeats itself beyond reason")
        if isinstance(value, dict):
            return {text(k): visit(v, depth + 1) for k, v in value.items() if isinstance(k, str)}
        if isinstance(value, (list, tuple)):
            return [visit(v, depth + 1) for v in value]
        if isinstance(value, str):
            return text(value)
        if isinstance(value, int) and abs(value) >= 2**63:
            return None
        return value if isinstance(value, (int, float)) else None

    return visit(value, 0)


def read_json(path: str | os.PathLike) -> Any:
    """`copy` of what a JSON file holds.

    Raises FileNotFoundError and other OSErrors, and ValueError, a sentence's part, for
    what is no file, too long, or no JSON.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would never end
        raise ValueError("it is no file")
    with open(path, "rb") as file:
        data = file.read(MOST_JSON + 1)
    if len(data) > MOST_JSON:
        raise ValueError(f"it has more than {MOST_JSON} bytes")
    return loads(data.decode("utf-8"))


def read_bytes(path: str | os.PathLike) -> bytes:
    """What a file holds, without a byte order mark.

    A pipe or a device, which might never end, is an OSError.
    """
    kind = os.stat(path).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise OSError(errno.EINVAL, "it is no file", str(path))
    with open(path, "rb") as file:
        return file.read().removeprefix(codecs.BOM_UTF8)


def loads(text: str) -> Any:
    """`copy` of what a JSON text holds; raises ValueError whatever is wrong with it.

    A byte order mark before it is left out; files put one after another have several.
    """
    try:
        return copy(json.loads(text.removeprefix("\ufeff")))
    except RecursionError:
        raise ValueError("it is nested beyond reason") from None
