"""Copy containers, text and numbers out of files, safe to keep and to print."""

from __future__ import annotations

import codecs
import errno
import json
import os
import stat
from collections.abc import Mapping
from typing import Any

MOST_NODES = 50_000
DEEPEST = 100


class Inert:
    """Stand in for a pickled object whose class is not made; keep its state."""

    state: Any = None

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def _ignore(self, *args):
        """Take an item of what was a list, a set or a dict."""

    append = add = __setitem__ = _ignore


def copy(value: Any) -> Any:
    """Return a copy of dicts with text keys, lists, text and numbers; None for all else.

    Configs of OmegaConf become such containers, their interpolations text. Text is made
    valid Unicode, integers beyond 64 bits become None. Raises ValueError for what is
    nested deeper than DEEPEST or, as a copy has no shared parts, has more than MOST_NODES
    values.
    """
    left = MOST_NODES

    def text(value: str) -> str:
        return value.encode("utf-8", "replace").decode()

    def visit(value, depth: int):
        nonlocal left
        left -= 1
        if left < 0 or depth > DEEPEST:
            raise ValueError("its config is nested or repeats itself beyond reason")
        if isinstance(value, Inert):  # OmegaConf has a node's children or its value in these
            state = value.state if isinstance(value.state, dict) else {}
            return visit(state.get("_content", state.get("_val")), depth + 1)
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


def section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a section of a config; an empty one where there is none."""
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def read_bytes(path: str | os.PathLike) -> bytes:
    """Return a file's bytes without a byte order mark.

    Raises OSError, also for a pipe or a device, which might never end.
    """
    kind = os.stat(path).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise OSError(errno.EINVAL, "it is no file", str(path))
    with open(path, "rb") as file:
        return file.read().removeprefix(codecs.BOM_UTF8)


def loads(text: str) -> Any:
    """Return a `copy` of what a JSON text contains; raises ValueError if there is none.

    A byte order mark before it is left out; files put one after another have several.
    """
    try:
        return copy(json.loads(text.removeprefix("\ufeff")))
    except RecursionError:
        raise ValueError("it is nested beyond reason") from None
