"""Stages of a long plan: each leaves its result on disk and is skipped when it is there.

Trainings are started as a user would start them, by the command line of the embedded host or
of a clone; sampling and report by `mdlm-mcd`. A stage that was stopped goes on from its newest
readable checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mdlm_mcd import __version__
from mdlm_mcd.checkpoints.files import (
    check_overwrite,
    lacks,
    make_folder,
    newest_checkpoint,
    read_json,
    write_json,
)
from mdlm_mcd.errors import ConfigError, MCDError

MINIHOST, CLONE = "mdlm_mcd.minihost.main", "mdlm_mcd.hosts.launch"
COMMAND = "mdlm_mcd.commands.main"
# What the guard says of a loss that has left its scale (distillers/divergence_guard.py).
DIVERGED = "was to be expected"


class StageError(MCDError, RuntimeError):
    """A stage that did not finish."""


def override(key: str, value: str | Path | Sequence[str]) -> str:
    """Write `key=value` in Hydra's grammar, which wants a path like epoch=1.ckpt quoted."""

    def quoted(text: str) -> str:
        plain = re.fullmatch(r"[\w./:@~+-]+", text)
        return text if plain else "'" + text.replace("'", r"\'") + "'"

    if isinstance(value, str | Path):
        return f"{key}={quoted(str(value))}"
    return f"{key}=[{','.join(map(quoted, value))}]"


def start(module, arguments, log, *, folder=None) -> int:
    """Run `python -m module arguments` in `folder`; return its exit status.

    Its output is appended to `log`. An exception here, as of a signal's handler, terminates
    it and waits until it has saved.
    """
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()


def claim(folder: Path, settings: dict) -> None:
    """Note the settings of a folder. Raises ConfigError where it has a run with others."""
    check_overwrite(f"--out: {make_folder(folder)}", folder, lacks("settings.json"))
    path = folder / "settings.json"
    mine = json.loads(json.dumps({**settings, "version": __version__}))
    found = read_json(path, None)
    if found is None:
        write_json(path, mine)
    elif found != mine:
        differ = sorted(k for k in {*mine, *found} if found.get(k) != mine.get(k))
        raise ConfigError(
            f"{folder} has a run with another {', '.join(differ)} (see {path.name} in it): name "
            "another --out, or delete that folder."
        )


class Stages:
    """Run stages in the folder `out`, with one log; `say` gets a line of each."""

    def __init__(self, out: Path, start=start, say=print):
        self.out, self.start, self.say = make_folder(out), start, say
        self.log = self.out / "log.txt"

    def call(self, stage, module, arguments, folder=None) -> tuple[int, str]:
        """Run a stage; return its exit status and the end of its output."""
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"$ {stage}: python -m {module} {' '.join(arguments)}\n")
        since = self.log.stat().st_size
        status = self.start(module, arguments, self.log, folder=folder)
        return status, self.log.read_bytes()[since:].decode("utf-8", errors="replace")[-8_000:]

    def must(self, stage, module, arguments, folder=None) -> None:
        """Run a stage. Raises StageError with the end of its output."""
        status, text = self.call(stage, module, arguments, folder)
        if status != 0:
            raise self.failed(stage, status, text)

    def failed(self, stage: str, status: int, text: str, where: str = "") -> StageError:
        last = "\n".join(text.strip().splitlines()[-5:])
        how = f"{where} (exit status {status}; log: {self.log})"
        return StageError(f"{stage} stopped{how}. Its last lines: {last}")

    def train(
        self,
        name: str,
        overrides: Sequence[str],
        steps: int,
        *,
        label: str = "",
        target: str = "last.ckpt",
        host: Path | None = None,
        diverges: bool = False,
    ) -> Path | None:
        """Train in `out/runs/NAME` to `steps` steps, from wherever it stands.

        Returns the checkpoint `target`, or None when the loss diverged and `diverges` says
        that this is a result. host: a clone in place of the embedded host.
        """
        folder, label = self.out / "runs" / name, label or name
        failure, path = folder / "diverged.txt", folder / "checkpoints" / target
        if failure.exists():
            return None
        last, step = newest_checkpoint(path.parent)
        if step >= steps and path.exists():
            return path
        self.say(f"{label}: {f'from step {step:,}' if step else 'begins'}")
        resume = "checkpointing.resume_from_ckpt=false"
        if last:  # which is known to be whole
            resume = override("checkpointing.resume_ckpt_path", last)
        given = [override("hydra.run.dir", folder), *overrides, f"trainer.max_steps={steps}"]
        module = CLONE if host else MINIHOST
        status, text = self.call(label, module, [*given, resume], folder=host)
        if diverges and status and DIVERGED in text:
            failure.write_text(text[-2_000:], "utf-8")
            return None
        step = newest_checkpoint(path.parent)[1]
        if status or step < steps or not path.exists():
            raise self.failed(label, status, text, f" at step {step:,} of {steps:,}")
        return path
