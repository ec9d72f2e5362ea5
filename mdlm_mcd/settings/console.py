"""What every command does at its ends: read its arguments, print text of any kind."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping

from ..errors import ConfigError, printable

FULL_ERROR = "HYDRA_FULL_ERROR"
ASKED = "MDLM_MCD_FULL_ERROR"  # the user's own, which child processes inherit


def write_any_text() -> None:
    """Have stdout and stderr escape what their encoding lacks, not fail on it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")


def check_arguments(arguments: Iterable[str]) -> None:
    """Raises ConfigError for an argument with a control character in it."""
    for argument in arguments:
        found = [c for c in argument if unicodedata.category(c) == "Cc"]
        found = [c for c in found if c not in "\t\n"]
        if "\r" in found:
            where = " at its end" if argument.endswith("\r") else ""
            raise ConfigError(
                f"{printable(argument)} has a carriage return{where}: the script has "
                "Windows line ends, save it with LF."
            )
        if found:
            raise ConfigError(
                f"{printable(argument)} has the control character "
                f"{printable(found[0])}: leave it out."
            )


def wants_traceback() -> bool:
    """Whether the user has set HYDRA_FULL_ERROR=1."""
    return os.environ.get(ASKED, os.environ.get(FULL_ERROR)) == "1"


def hydra_raises() -> Callable[[], None]:
    """Have Hydra raise its errors, not print them; return what undoes that."""
    before = {name: os.environ.get(name) for name in (ASKED, FULL_ERROR)}
    os.environ.setdefault(ASKED, before[FULL_ERROR] or "")
    os.environ[FULL_ERROR] = "1"
    return functools.partial(_set, before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@contextlib.contextmanager
def as_asked():
    """The environment as the user set it, for the processes that a job starts."""
    before = {name: os.environ.get(name) for name in (ASKED, FULL_ERROR)}
    if before[ASKED] is not None:
        _set({ASKED: None, FULL_ERROR: before[ASKED] or None})
    try:
        yield
    finally:
        _set(before)


def sentence(text: object) -> str:
    """A message for the terminal, line by line free of control characters."""
    return "\n".join(map(printable, str(text).split("\n")))
