"""Apply our patches to a host's files, revert them, or apply them in memory.

A hunk is a block of lines and what it becomes. It fits where the block occurs exactly
once, wherever in the file that is, and however it is indented and quoted, since forks have
gone through formatters; nothing is guessed beyond that. A hunk that is there already
stays, so a host that is patched in part is patched to the end. `git apply` does the same
to a pristine clone.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from hydra_plugins.mdlm_mcd_searchpath import trains_ours

from .. import patches_dir
from ..errors import ConfigError
from .specs import HostSpec


@dataclass
class Hunk:
    """Lines of a file, each with its mark: kept (" "), taken out ("-") or put in ("+")."""

    file: str
    lines: list[tuple[str, str]] = field(default_factory=list)

    def without(self, mark: str) -> list[str]:
        return [line for its, line in self.lines if its != mark]


def parse(text: str) -> list[Hunk]:
    """Read the hunks of a unified diff."""
    hunks: list[Hunk] = []
    file = ""
    for line in text.splitlines():
        if line.startswith(("--- ", "+++ ")):
            file = line[4:].strip().partition("/")[2]
        elif line.startswith("@@"):
            hunks.append(Hunk(file))
        else:
            hunks[-1].lines.append((line[0], line[1:]))
    return hunks


def of(spec: HostSpec) -> list[Hunk]:
    return parse((patches_dir() / spec.patch).read_text(encoding="utf-8"))


def _bare(line: str) -> str:
    return line.strip().replace('"', "'")


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _places(block: list[str], text: list[str]) -> list[tuple[int, dict[str, str]]]:
    """Return where a block stands in a file: its first line, and the file's indents by its own.

    Where one of its own would be two of the file's, it does not fit.
    """
    wanted, bare = ([_bare(line) for line in lines] for lines in (block, text))
    found = []
    for at in range(len(bare)):
        if bare[at : at + len(wanted)] == wanted:
            pairs = zip(block, text[at:], strict=False)
            indents = {(_indent(ours), _indent(line)) for ours, line in pairs if ours.strip()}
            if len(dict(indents)) == len(indents):
                found.append((at, dict(indents)))
    return found


def _ended(line: str, by: str) -> str:
    """Return a line with the end of another one, in its quotes, as far as they agree."""
    same = len(os.path.commonprefix([_bare(line)[::-1], _bare(by)[::-1]]))
    return line[: len(line) - same] + by[len(by.rstrip()) - same :]


def _changed(hunk: Hunk, put: str, text: list[str], at: int, indents: dict[str, str]) -> list[str]:
    """Return a file's lines with the hunk's lines of the mark `put` in, its others out.

    Lines that stay are the file's own.
    """
    end = "\r\n" if text[at].endswith("\r\n") else "\n"  # git may have made it CRLF
    done = text[:at]
    for stays, block in itertools.groupby(hunk.lines, lambda line: line[0] == " "):
        lines = list(block)
        new = [line for mark, line in lines if mark == put]
        old = text[at : at + len(lines) - len(new)]
        at += len(old)
        # The last of the new lines are those that replace old ones.
        replaced = [end] * (len(new) - len(old)) + old[max(0, len(old) - len(new)) :]
        done += old if stays else []
        done += [
            indents[_indent(line)] + _ended(line.strip(), by)
            for line, by in zip(new, replaced, strict=True)
        ]
    return done + text[at:]


def changes(folder: Path, spec: HostSpec, revert: bool = False, only: str = "") -> dict[str, bytes]:
    """Return the files that applying (or reverting) the patch changes, as they become.

    only: the one file to patch. Empty where it is done already, in main.py also by hand in
    other words. Raises ConfigError where a hunk does not fit.
    """
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    by_hand = set()
    for hunk in of(spec):
        if only and hunk.file != only:
            continue
        if hunk.file not in before:
            lines = (folder / hunk.file).read_bytes().splitlines(keepends=True)
            # Latin 1 takes any bytes, and gives the same back.
            before[hunk.file] = after[hunk.file] = [line.decode("latin-1") for line in lines]
        text = after[hunk.file]
        old, new = (_places(hunk.without(mark), text) for mark in "+-")
        if {len(old), len(new)} != {0, 1}:
            if not revert and trains_ours("".join(before[hunk.file])):
                by_hand.add(hunk.file)
                continue
            around = max(hunk.without("+"), key=len)
            raise ConfigError(
                f"{folder} has other lines where {spec.patch} would go ({hunk.file}, around "
                f"`{around.strip()}`), and was not touched: make the change of "
                f"{patches_dir() / spec.patch} by hand, or put the file back, if these are "
                "edits, and try again."
            )
        for at, indents in new if revert else old:
            after[hunk.file] = _changed(hunk, "-" if revert else "+", text, at, indents)
    return {
        name: "".join(text).encode("latin-1")
        for name, text in after.items()
        if text != before[name] and name not in by_hand
    }


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
            with contextlib.suppress(OSError):  # a disk that is only read refuses this too
                part.unlink()
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
