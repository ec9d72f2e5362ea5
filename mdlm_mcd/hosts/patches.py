"""Apply our patches to a host's files, revert them, or apply them in memory.

A hunk is a block of lines and what it becomes. It fits where the block occurs
exactly once, wherever in the file that is; nothing is guessed beyond that. A hunk that is
there already stays, so a host that is patched in part is patched to the end. `git apply`
does the same to a pristine clone.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from .. import patches_dir
from ..errors import ConfigError
from .specs import HostSpec


@dataclass
class Hunk:
    """Lines as they are in the host, and as they become."""

    file: str
    before: bytes = b""
    after: bytes = b""


def parse(text: str) -> list[Hunk]:
    """Read the hunks of a unified diff."""
    hunks: list[Hunk] = []
    file = ""
    for line in text.splitlines(keepends=True):
        if line.startswith(("--- ", "+++ ")):
            file = line[4:].strip().partition("/")[2]
        elif line.startswith("@@"):
            hunks.append(Hunk(file))
        else:
            hunks[-1].before += line[1:].encode() * (line[0] != "+")
            hunks[-1].after += line[1:].encode() * (line[0] != "-")
    return hunks


def of(spec: HostSpec) -> list[Hunk]:
    return parse((patches_dir() / spec.patch).read_text(encoding="utf-8"))


def changes(folder: Path, spec: HostSpec, revert: bool = False) -> dict[str, bytes]:
    """Return the files that applying (or reverting) the patch changes, as they become.

    Empty where it is done already. Raises ConfigError for local edits where a hunk would go.
    """
    before: dict[str, bytes] = {}
    after: dict[str, bytes] = {}
    for hunk in of(spec):
        if hunk.file not in before:
            before[hunk.file] = after[hunk.file] = (folder / hunk.file).read_bytes()
        text = after[hunk.file]
        # The line ends of the file, which git may have made CRLF.
        end = b"\r\n" if b"\r\n" in text else b"\n"
        old, new = (block.replace(b"\n", end) for block in (hunk.before, hunk.after))
        counts = text.count(old), text.count(new)
        if counts not in ((1, 0), (0, 1)):
            lines = hunk.before.decode().splitlines()
            raise ConfigError(
                f"{folder} has local edits where {spec.patch} would go ({hunk.file}, around "
                f"`{lines[len(lines) // 2].strip()}`), and was not touched: make the change of "
                f"{patches_dir() / spec.patch} by hand, or put the file back and try again."
            )
        if counts == ((0, 1) if revert else (1, 0)):
            after[hunk.file] = text.replace(*((new, old) if revert else (old, new)))
    return {name: text for name, text in after.items() if text != before[name]}


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Replace files, each as a whole; links stay links. Raises ConfigError."""
    for name, text in files.items():
        path = (folder / name).resolve()
        part = path.with_name(f".{path.name}.mdlm-mcd")
        try:
            part.write_bytes(text)
            shutil.copymode(path, part)
            os.replace(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise ConfigError(
                f"{folder} cannot be written ({error}): run as a user who may, or leave "
                "the host as it is and start with `mdlm-mcd run`."
            ) from error


def patch(folder: str | Path, spec: HostSpec, check=False, revert=False) -> str:
    """Patch a clone, as `mdlm-mcd patch` does; return the line to print.

    Raises ConfigError, with nothing written, where the patch does not fit.
    """
    files = changes(Path(folder), spec, revert)
    verb = "revert" if revert else "apply"
    if not files:
        return f"{spec.name} host: nothing to {verb}."
    if not check:
        write(Path(folder), files)
    done = f"would {verb}" if check else "reverted" if revert else "applied"
    return f"{spec.name} host: {done} {spec.patch} ({' and '.join(files)})."
