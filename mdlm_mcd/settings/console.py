"""What every command does at its ends: print text of any kind, and tracebacks on request."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

from ..errors import printable

FULL_ERROR = "HYDRA_FULL_ERROR"
ASKED = "MDLM_MCD_FULL_ERROR"  # the user's own, which child processes inherit


def write_any_text() -> None:
    """Have stdout and stderr escape what their encoding lacks, not fail on it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")


def wants_traceback() -> bool:
    """Return whether the user has set HYDRA_FULL_ERROR=1."""
    return os.environ.get(ASKED, os.environ.get(FULL_ERROR)) == "1"


def hydra_raises() -> Callable[[], None]:
    """Have Hydra raise its errors, not print them; return what undoes that."""
    before = {name: os.environ.get(name) for name in (ASKED, FULL_ERROR)}
    os.environ.setdefault(ASKED, before[FULL_ERROR] or "")
    os.environ[FULL_ERROR] = "1"

    def undo() -> None:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

    return undo


def sentence(text: object) -> str:
    """Return a message for the terminal, its lines free of control characters."""
    return "\n".join(map(printable, str(text).split("\n")))
