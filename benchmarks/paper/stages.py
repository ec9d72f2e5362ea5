"""Stages of a long chain: each leaves its result on disk and is skipped when it stands.

Trainings run as a user would run them, by the command line of the embedded host or of a
clone; sampling and report by `mdlm-mcd`. A stage that was stopped, or that ran out of
its time, goes on from its newest readable checkpoint.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

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

MINIHOST, CLONE, COMMAND = (
    "mdlm_mcd.minihost.main",
    "mdlm_mcd.hosts.launch",
    "mdlm_mcd.commands.main",
)
# What the guard says of a loss that has left its scale (distillers/divergence_guard.py).
DIVERGED = "was to be expected"
UNFINISHED = "The run ended at step"


class StageError(MCDError, RuntimeError):
    """A part of the chain that did not finish."""


class OutOfTime(MCDError):
    """The slice is over; the same command goes on."""


def override(key: str, value: str | Path | Sequence[str]) -> str:
    """`key=value` in Hydra's grammar, which wants a path like epoch=1.ckpt quoted."""
    if not isinstance(value, str | Path):
        return f"{key}=[{','.join(map(_quoted, value))}]"
    return f"{key}={_quoted(str(value))}"


def _quoted(text: str) -> str:
    if re.fullmatch(r"[\w./:@~+-]+", text):
        return text
    return "'" + text.replace("'", r"\'") + "'"


class Start(Protocol):
    """`python -m module arguments` in `folder`; None when `seconds` were not enough."""

    def __call__(
        self,
        module: str,
        arguments: Sequence[str],
        log: Path,
        *,
        folder: Path | None = None,
        seconds: float | None = None,
    ) -> int | None: ...


def start(module, arguments, log, *, folder=None, seconds=None):
    """The exit status of a child process; what it says is appended to `log`.

    Out of time it is terminated, and so it is when we are.
    """
    command = [sys.executable, "-m", module, *arguments]
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()


def last_lines(text: str, count: int = 5) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-count:])


def claim(folder: Path, settings: dict) -> None:
    """Note what a folder is for. Raises ConfigError where it holds something else."""
    check_overwrite(f"--out: {make_folder(folder)}", folder, lacks("settings.json"))
    path = folder / "settings.json"
    mine = json.loads(json.dumps({**settings, "version": __version__}))
    held = read_json(path, None)
    if held is None:
        write_json(path, mine)
    elif held != mine:
        differ = sorted(k for k in {*mine, *held} if held.get(k) != mine.get(k))
        raise ConfigError(
            f"{folder} holds a run with another {', '.join(differ)} (see {path.name} "
            "in it): name another --out, or delete that folder."
        )


class Stages:
    """Runs stages in `out`, one log for all of them; `say` gets a line of each."""

    def __init__(self, out: Path, start: Start = start, say=print):
        self.out, self.start, self.say = out, start, say
        self.log = out / "log.txt"
        self.trained = False  # whether a training came on

    def call(
        self,
        stage: str,
        module: str,
        arguments: Sequence[str],
        *,
        folder=None,
        seconds: float | None = None,
    ) -> tuple[int | None, str]:
        """(exit status, the end of what was said)."""
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"$ {stage}: python -m {module} {' '.join(arguments)}\n")
        since = self.log.stat().st_size
        status = self.start(module, arguments, self.log, folder=folder, seconds=seconds)
        text = self.log.read_bytes()[since:].decode("utf-8", errors="replace")
        return status, text[-8_000:]

    def must(self, stage: str, module: str, arguments: Sequence[str], **how) -> None:
        """Raises StageError, with what was said, unless it ends well."""
        status, said = self.call(stage, module, arguments, **how)
        if status is None:
            raise OutOfTime(f"{stage} is not finished: the same command goes on.")
        if status != 0:
            raise self.failed(stage, status, said)

    def failed(self, stage: str, status: int, said: str, where: str = "") -> StageError:
        return StageError(
            f"{stage} stopped{where} (exit status {status}; log: {self.log}). It said: "
            f"{last_lines(said)}"
        )

    def train(
        self,
        stage: str,
        folder: Path,
        overrides: Sequence[str],
        steps: int,
        *,
        target: str = "last.ckpt",
        module: str = MINIHOST,
        host: Path | None = None,
        diverges: bool = False,
        seconds: float | None = None,
    ) -> Path | None:
        """Train in `folder` to `steps` steps, from wherever it stands: its checkpoint.

        target: the file of `checkpoints/` that is wanted. None when the loss diverged
        and `diverges` says that this is a result. seconds: of this call; raises
        OutOfTime when they were not enough, after a checkpoint.
        """
        checkpoints = folder / "checkpoints"
        failure = folder / "diverged.txt"
        if diverges and failure.exists():
            return None
        last, step = newest_checkpoint(checkpoints)
        if step >= steps and (checkpoints / target).exists():
            return checkpoints / target
        self.say(f"{stage}: {'from step ' + format(step, ',') if step else 'begins'}")
        status, said = self.call(
            stage,
            module,
            [
                override("hydra.run.dir", folder),
                *overrides,
                f"trainer.max_steps={steps}",
                *resume(last),
                *limit(last, seconds),
            ],
            folder=host,
            # Lightning stops by itself; this is for a child that does not.
            seconds=None if seconds is None else seconds + GRACE,
        )
        if diverges and status not in (0, None) and DIVERGED in said:
            failure.write_text(last_lines(said) + "\n", "utf-8")
            return None
        before, (last, step) = step, newest_checkpoint(checkpoints)
        self.trained |= step > before
        if status == 0 and step >= steps and (checkpoints / target).exists():
            return checkpoints / target
        stopped = status in (0, None) or UNFINISHED in said
        if seconds is not None and stopped and step > before:
            raise OutOfTime(f"{stage} stands at step {step:,} of {steps:,}.")
        raise self.failed(stage, status, said, f" at step {step:,} of {steps:,}")


# Seconds that a child may take beyond its limit: start, last checkpoint, end.
GRACE = 60.0


def resume(last: Path | None) -> list[str]:
    """Go on from a file that is known to be whole."""
    if last is None:
        return ["checkpointing.resume_from_ckpt=false"]
    return [override("checkpointing.resume_ckpt_path", last)]


def spent(last: Path | None) -> float:
    """Seconds of training behind a checkpoint, as Lightning's Timer counts them."""
    if last is None:
        return 0.0
    held = torch.load(last, map_location="cpu", weights_only=True, mmap=True)
    timer = held.get("callbacks", {}).get("Timer", {})
    return float(timer.get("time_elapsed", {}).get("train", 0.0))


def limit(last: Path | None, seconds: float | None) -> list[str]:
    """`trainer.max_time` for a run that has `seconds` more.

    A resumed Timer counts on from what its checkpoint says, so that is added.
    """
    if seconds is None:
        return []
    minutes, seconds = divmod(math.ceil(spent(last) + seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    time = ":".join(f"{x:02d}" for x in (days, hours, minutes, seconds))
    return [f"+trainer.max_time='{time}'"]
