"""Apply our patches to a host's files, revert them, or apply them in memory.

A hunk is a block of lines and what it becomes. It fits where the block occurs
exactly once, wherever in the file that is; nothing is guessed beyond that.
`git apply` does the same to a pristine clone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .. import patches_dir
from ..errors import ConfigError
from .specs import HostSpec

PRISTINE, PATCHED, CONFLICT = "pristine", "patched", "conflict"


@dataclass(frozen=True)
class Hunk:
    """Lines as they are in the host, and as they become."""

    file: str
    before: bytes
    after: bytes


def parse(text: str) -> list[Hunk]:
    """Read the hunks of a unified diff."""
    hunks: list[Hunk] = []
    file = ""
    for line in text.splitlines(keepends=True):
        if line.startswith(("--- ", "+++ ")):
            file = line[4:].strip().partition("/")[2]
        elif line.startswith("@@"):
            hunks.append(Hunk(file, b"", b""))
        elif line[0] in " -+":
            block = line[1:].encode()
            last = hunks[-1]
            before = last.before + block * (line[0] != "+")
            hunks[-1] = Hunk(file, before, last.after + block * (line[0] != "-"))
    return hunks


def of(spec: HostSpec) -> list[Hunk]:
    return parse((patches_dir() / spec.patch).read_text(encoding="utf-8"))


def read(folder: Path, hunks: list[Hunk]) -> dict[str, bytes]:
    """Read the files that the hunks change, by name.

    Raises ConfigError when one is missing.
    """
    try:
        return {h.file: (folder / h.file).read_bytes() for h in hunks}
    except OSError as error:
        raise ConfigError(
            f"{error.filename} cannot be read ({error.strerror}): it has to be a whole "
            "clone of the host."
        ) from error


def _native(block: bytes, text: bytes) -> bytes:
    """Return the block with the line ends of the file, which git may have made CRLF."""
    return block.replace(b"\n", b"\r\n") if b"\r\n" in text else block


def state(files: dict[str, bytes], hunks: list[Hunk]) -> tuple[str, str]:
    """Return PRISTINE, PATCHED or CONFLICT, and the file and line where hunks disagree."""
    found = []
    for hunk in hunks:
        text = files[hunk.file]
        before, after = (_native(b, text) for b in (hunk.before, hunk.after))
        # In this order: a block that only gains lines is not inside its new form,
        # but one that only loses some may be.
        if text.count(after) == 1 and text.count(before) == 0:
            found.append(PATCHED)
        elif text.count(before) == 1 and text.count(after) == 0:
            found.append(PRISTINE)
        else:
            lines = hunk.before.decode().splitlines()
            return CONFLICT, f"{hunk.file}, around `{lines[len(lines) // 2].strip()}`"
    if len(set(found)) == 1:
        return found[0], ""
    odd = next(h for h, s in zip(hunks, found, strict=True) if s != found[0])
    return CONFLICT, f"{odd.file}, which is only partly patched"


def changed(files: dict[str, bytes], hunks: list[Hunk], revert: bool = False) -> dict[str, bytes]:
    """Return the files with every hunk applied (or reverted)."""
    files = dict(files)
    for hunk in hunks:
        text = files[hunk.file]
        old, new = (_native(b, text) for b in (hunk.before, hunk.after))
        files[hunk.file] = text.replace(*((new, old) if revert else (old, new)))
    return files


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Replace the files, or none of them; links stay links. Raises ConfigError."""
    paths = {(folder / name).resolve(): text for name, text in files.items()}
    before = {path: path.read_bytes() for path in paths}
    replaced, part = [], None
    try:
        for path, text in paths.items():
            if not os.access(path, os.W_OK):
                raise PermissionError(13, "Permission denied", str(path))
            part = path.with_name(f".{path.name}.mdlm-mcd")
            part.write_bytes(text)
            os.chmod(part, path.stat().st_mode)
            replaced.append(path)
            os.replace(part, path)
    except OSError as error:
        for path in replaced:
            path.write_bytes(before[path])
        if part is not None:
            part.unlink(missing_ok=True)
        raise ConfigError(
            f"{folder} cannot be written ({error}): run as a user who may, or leave "
            "the host as it is and start with `mdlm-mcd run`."
        ) from error


def examine(folder: Path, spec: HostSpec) -> tuple[str, dict[str, bytes], list[Hunk]]:
    """Return (PRISTINE or PATCHED, the files, the hunks) of a clone.

    Raises ConfigError where the patch does not fit.
    """
    hunks = of(spec)
    files = read(folder, hunks)
    now, where = state(files, hunks)
    if now == CONFLICT:
        raise ConfigError(
            f"{folder} has local edits where {spec.patch} would go ({where}), and was "
            f"not touched: make the change of {patches_dir() / spec.patch} by hand, or "
            "put the file back and try again."
        )
    return now, files, hunks


def patch(folder: str | Path, spec: HostSpec, check=False, revert=False) -> str:
    """Patch a clone, as `mdlm-mcd patch` does; return the line to print.

    Raises ConfigError, with nothing written, where the patch does not fit.
    """
    folder = Path(folder)
    now, files, hunks = examine(folder, spec)
    names = " and ".join(dict.fromkeys(h.file for h in hunks))
    verb = "revert" if revert else "apply"
    if now == (PRISTINE if revert else PATCHED):
        return f"{spec.name} host, {now}: nothing to {verb}."
    if check:
        return f"{spec.name} host, {now}: would {verb} {spec.patch} ({names})."
    write(folder, changed(files, hunks, revert))
    done = "reverted" if revert else "applied"
    then = "" if revert else " Now: python main.py algo=mcd algo.teacher_path=..."
    return f"{spec.name} host: {done} {spec.patch} ({names}).{then}"
