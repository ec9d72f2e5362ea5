"""Stages of a long plan: each leaves its result in a folder and is skipped when it is there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import __version__
from ..checkpoints.files import make_folder, newest_checkpoint, read_json, write_json
from ..errors import ConfigError, MCDError

MINIHOST, CLONE = "mdlm_mcd.minihost.main", "mdlm_mcd.hosts.launch"


class StageError(MCDError, RuntimeError):
    """A stage that did not finish; `output` is what it printed."""

    output = ""


def claim(folder: Path, settings: Mapping[str, Any], file: str, what: str) -> Path:
    """Note in `file` the settings of a folder, made where it is missing; return its path.

    what: a word for its contents. Raises ConfigError for a folder of other things, and where
    it was made with other settings or by another version.
    """
    folder = make_folder(folder)
    found = read_json(folder / file, None)
    mine = json.loads(json.dumps({**settings, "version": __version__}))
    if found is None:
        if any(folder.iterdir()):
            raise ConfigError(
                f"--out {folder} was not written by this command (it has no {file}): name another."
            )
        write_json(folder / file, mine)
    elif found != mine:
        found = found if isinstance(found, dict) else {}
        differ = sorted(k for k in {*mine, *found} if found.get(k) != mine.get(k))
        raise ConfigError(
            f"--out {folder} holds a {what} with another {', '.join(differ)} (see {file} in "
            "it): name another folder, or delete this one."
        )
    return folder


def override(key: str, value: str | Path | Sequence[str]) -> str:
    """Write `key=value` in Hydra's grammar, which wants a path like epoch=1.ckpt quoted."""

    def quoted(text: str) -> str:
        plain = re.fullmatch(r"[\w./:@~+-]+", text)
        return text if plain else "'" + text.replace("'", r"\'") + "'"

    if isinstance(value, str | Path):
        return f"{key}={quoted(str(value))}"
    return f"{key}=[{','.join(map(quoted, value))}]"


class Ended(NamedTuple):
    """How a stage ended: its exit status and its output."""

    status: int = 0
    output: str = ""

    def failed(self, stage: str, log: Path, where: str = "") -> StageError:
        lines = [line.strip() for line in self.output.splitlines()]
        last = "\n".join([line for line in lines if line][-5:])
        how = f"{where} (exit status {self.status}; log: {log})"
        error = StageError(f"{stage} stopped{how}. Its last lines: {last}")
        error.output = self.output
        return error


def run(
    module: str,
    arguments: Sequence[str],
    log: Path,
    *,
    on_step: Callable[[int], None] = lambda step: None,
    folder: Path | None = None,
) -> Ended:
    """Run `python -m module arguments` in `folder`; command and output go behind `log`.

    on_step(step): asked twice a second, of a training that has the callback `lines`. The child
    is terminated when this process is interrupted.
    """
    with log.open("a", encoding="utf-8") as file:
        print("$ python -m", module, *arguments, file=file, flush=True)
        since = log.stat().st_size

        def output() -> str:
            return log.read_bytes()[since:].decode("utf-8", errors="replace")

        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            while process.poll() is None:
                if found := re.findall(r"^step (\d+)/", output(), re.MULTILINE):
                    on_step(int(found[-1]))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
        finally:
            process.terminate()
            process.wait()
    return Ended(process.returncode, output())


def train(
    folder: Path,
    overrides: Sequence[str],
    steps: int,
    log: Path,
    *,
    host: Path | None = None,
    on_step: Callable[[int], None] = lambda step: None,
    run=run,
) -> Path:
    """Train in `folder` to `steps` steps, from its newest whole checkpoint; return the last.

    host: a clone in place of the embedded host. run: what runs it. Raises StageError.
    """
    last, step = newest_checkpoint(folder / "checkpoints")
    if last and step >= steps:
        return last
    resume = "checkpointing.resume_from_ckpt=false"
    if last:
        resume = override("checkpointing.resume_ckpt_path", last)
    arguments = [override("hydra.run.dir", folder), *overrides, f"trainer.max_steps={steps}"]
    module = CLONE if host else MINIHOST
    ended = run(module, [*arguments, resume], log, folder=host, on_step=on_step)
    last, step = newest_checkpoint(folder / "checkpoints")
    if last is None or ended.status or step < steps:
        raise ended.failed(folder.name, log, f" at step {step:,} of {steps:,}")
    return last
