"""What every command prints: text of any kind, progress, and tracebacks on request."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import Progress

from ..errors import printable

FULL_ERROR = "HYDRA_FULL_ERROR"
ASKED = "MDLM_MCD_FULL_ERROR"  # the user's own, which child processes inherit
EVERY = 30  # seconds between two lines of progress


def write_any_text() -> None:
    """Have stdout and stderr escape what their encoding lacks, not fail on it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")


def wants_traceback() -> bool:
    """Return whether the user has set HYDRA_FULL_ERROR=1."""
    return os.environ.get(ASKED, os.environ.get(FULL_ERROR)) == "1"


@contextlib.contextmanager
def hydra_raises() -> Iterator[None]:
    """Have Hydra raise its errors, not print them and end the program."""
    before = {name: os.environ.get(name) for name in (ASKED, FULL_ERROR)}
    os.environ.setdefault(ASKED, before[FULL_ERROR] or "")
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def refusals(explain: Callable[[Exception], str | None]) -> Iterator[None]:
    """End the program with the sentence `explain(error)`, status 1; without one, raise."""
    try:
        yield
    except Exception as error:
        if (words := explain(error)) is None:
            raise
        raise SystemExit(words) from None


def sentence(text: object) -> str:
    """Return a message for the terminal, its lines free of control characters."""
    return "\n".join(map(printable, str(text).split("\n")))


@contextlib.contextmanager
def progress(console: Console, what: str) -> Iterator[Callable[..., None]]:
    """Yield `update(done, total, what)`: a bar on a terminal, elsewhere a line now and then."""
    if console.is_terminal:
        with Progress(console=console) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total, what=what: bar.update(
                task, completed=done, total=total, description=what
            )
        return
    began = last = time.monotonic()

    def update(done: float, total: float, what: str = what) -> None:
        nonlocal last
        now = time.monotonic()
        if done and now - last >= EVERY:
            last, left = now, (now - began) * (total - done) / done
            console.print(f"{what}: {done:.0f} of {total:.0f}, {left:.0f} s left", markup=False)

    yield update
