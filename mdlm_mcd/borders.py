"""Borders to libraries and to the machine: whatever fails there is one sentence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from .checkpoints.sanitize import shown
from .errors import ConfigError

ENOUGH = 60  # letters of a cause; where its first line has fewer, the next ones too


def cause(error: BaseException) -> str:
    """What went wrong in a library, on one line."""
    if type(error).__name__ == "DatasetGenerationError" and error.__cause__:
        error = error.__cause__  # it says nothing itself
    text = ""
    for line in str(error).splitlines():
        text = f"{text} {line.strip()}".strip()
        if len(text) >= ENOUGH:
            break
    return f"{type(error).__name__}: {shown(text, 200)}".rstrip(".: ")


@contextmanager
def border(
    what: str, remedy: str, kind: type[Exception] = ConfigError
) -> Iterator[None]:
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


def expanded(path: str | os.PathLike, key: str) -> str:
    """`path` with a leading `~` replaced by the home folder.

    key: the setting that names it, for the message. Raises ConfigError where no such
    folder is known: as it stands, the path would be a folder called `~` here.
    """
    found = os.path.expanduser(path)
    user = found.partition("/")[0]
    if user.startswith("~") and (user == "~" or not os.path.lexists(user)):
        raise ConfigError(
            f"{key}={path}: no home folder is known for {user}: give the folder "
            f"itself, e.g. {key}=/some/folder, or set HOME."
        )
    return found


def check_hub_cache(name: str) -> None:
    """Raise ConfigError where `name`, if it has to be fetched, would go to a `~` here.

    The Hub's library takes such a folder where it knows of no home.
    """
    if not os.path.exists(str(name)):
        from huggingface_hub.constants import HF_HUB_CACHE

        expanded(HF_HUB_CACHE, "HF_HOME")
