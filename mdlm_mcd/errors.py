"""Exceptions of this package, and sentences from the exceptions of libraries.

A message is one sentence that names the key, its value and the remedy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

ENOUGH = 60  # letters of a cause; where its first line has fewer, the next ones too
WHOLE = "a whole number of at least 1"  # for `require`


class MCDError(Exception):
    """Root of everything this package raises on purpose."""


class ConfigError(MCDError, ValueError):
    """A setting that cannot work: the message names its key and a remedy."""


class CheckpointError(MCDError, ValueError):
    """A file of weights that does not fit what is asked of it."""


class UnfinishedError(MCDError, RuntimeError):
    """A distillation that ended, without an error, before its last round."""


class DivergenceError(MCDError, RuntimeError):
    """A loss that is not finite or has left its scale."""


def require(fine: Any, key: str, value: Any, wanted: str) -> None:
    """Raise ConfigError, "KEY=VALUE must be WANTED.", unless the value is `fine`."""
    if not fine:
        raise ConfigError(f"{key}={value} must be {wanted}.")


def require_one_of(known: Iterable[str], key: str, value: Any) -> None:
    """Raise ConfigError, which lists those `known`, for another value."""
    if value not in known:
        raise ConfigError(f"{key}={value} is unknown: choose one of {', '.join(known)}.")


def printable(text: str) -> str:
    """Text with what cannot be printed written as an escape, such as `\\r`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: Any, most: int = 80) -> str:
    """Return a value for a message: one printable line of at most `most` letters."""
    if isinstance(value, (str, BaseException)):
        text = str(value).strip().partition("\n")[0]
    elif isinstance(value, (bool, float, type(None))) or (
        isinstance(value, int) and abs(value) < 2**64
    ):
        text = str(value)
    else:  # its text may be long, and of a huge int Python refuses to make one
        text = f"a {type(value).__name__}"
    text = printable(text[: 2 * most])
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def cause(error: BaseException) -> str:
    """Return what went wrong in a library, on one line."""
    if type(error).__name__ == "DatasetGenerationError" and error.__cause__:
        error = error.__cause__  # it has no words of its own
    text = ""
    for line in str(error).splitlines():
        text = f"{text} {line.strip()}".strip()
        if len(text) >= ENOUGH:
            break
    return f"{type(error).__name__}: {shown(text, 200)}".rstrip(".: ")


@contextmanager
def border(what: str, remedy: str, kind: type[Exception] = ConfigError) -> Iterator[None]:
    """Raise `kind`, "WHAT (cause): REMEDY.", for any exception of a library inside.

    This package's own errors pass, and so do KeyboardInterrupt and MemoryError.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] == __package__:
            raise
        raise kind(f"{what} ({cause(error)}): {remedy}.") from error
