"""Stages of a long plan: each leaves its result on disk and is skipped when it is there.

Trainings are started as a user would start them, by the command line of the embedded host or
of a clone; sampling and report by `mdlm-mcd`. A stage that was stopped, or ran out of its time,
goes on from its newest readable checkpoint.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

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

MINIHOST, CLONE = "mdlm_mcd.minihost.main", "mdlm_mcd.hosts.launch"
COMMAND = "mdlm_mcd.commands.main"
# What the guard says of a loss that has left its scale (distillers/divergence_guard.py).
DIVERGED = "was to be expected"
UNFINISHED = "The run ended at step"
GRACE = 60.0  # seconds beyond its limit that a child may take to start, save and end


class StageError(MCDError, RuntimeError):
    """A stage that did not finish."""


class OutOfTime(MCDError):
    """The slice is over; the same command goes on."""


def override(key: str, value: str | Path | Sequence[str]) -> str:
    """Write `key=value` in Hydra's grammar, which wants a path like epoch=1.ckpt quoted."""

    def quoted(text: str) -> str:
        plain = re.fullmatch(r"[\w./:@~+-]+", text)
        return text if plain else "'" + text.replace("'", r"\'") + "'"

    if isinstance(value, str | Path):
        return f"{key}={quoted(str(value))}"
    return f"{key}=[{','.join(map(quoted, value))}]"


def options(values: Mapping[str, object]) -> list[str]:
    """Write flags of a command line: lists as several words, nothing for None and ()."""
    words = []
    for flag, value in values.items():
        if value is not None and value != ():
            words += [flag, *map(str, value if isinstance(value, list | tuple) else [value])]
    return words


def start(module, arguments, log, *, folder=None, seconds=None) -> int | None:
    """Run `python -m module arguments` in `folder`; return its exit status.

    Its output is appended to `log`. None when `seconds` were not enough; it is then terminated,
    and so it is when this process ends.
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
        self.trained = False  # whether a training advanced

    def call(self, stage, module, arguments, *, folder=None, seconds=None):
        """Run a stage: (exit status, the end of its output)."""
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"$ {stage}: python -m {module} {' '.join(arguments)}\n")
        since = self.log.stat().st_size
        status = self.start(module, arguments, self.log, folder=folder, seconds=seconds)
        text = self.log.read_bytes()[since:].decode("utf-8", errors="replace")
        return status, text[-8_000:]

    def must(self, stage, module, arguments, **how) -> None:
        """Run a stage. Raises OutOfTime, or StageError with the end of its output."""
        status, said = self.call(stage, module, arguments, **how)
        if status is None:
            raise OutOfTime(f"{stage} is not finished.")
        if status != 0:
            raise self.failed(stage, status, said)

    def failed(self, stage: str, status: int, said: str, where: str = "") -> StageError:
        return StageError(
            f"{stage} stopped{where} (exit status {status}; log: {self.log}). Its last lines: "
            f"{last_lines(said)}"
        )

    def sweep(self, rows: Mapping[str, Path | str], flags: Mapping, seconds=None) -> None:
        """Run `mdlm-mcd sweep` of models by their row's name."""
        models = [f"{name}={path}" for name, path in rows.items()]
        self.must("sweep", COMMAND, ["sweep", *models, *options(flags)], seconds=seconds)

    def report(self, results: Path, title: str) -> Path:
        """Run `mdlm-mcd report` beside the results file; return the page."""
        page = results.with_name("report.html")
        flags = options({"--reference": "teacher", "--title": title, "--out": page})
        self.must("report", COMMAND, ["report", str(results), *flags])
        return page

    def train(
        self,
        stage: str,
        folder: Path,
        overrides: Sequence[str],
        steps: int,
        *,
        target: str = "last.ckpt",
        host: Path | None = None,
        diverges: bool = False,
        seconds: float | None = None,
    ) -> Path | None:
        """Train in `folder` to `steps` steps, from wherever it stands; return its checkpoint.

        target: the wanted file of `checkpoints/`. host: a clone in place of the embedded host.
        Returns None when the loss diverged and `diverges` says that this is a result. seconds:
        of this call; raises OutOfTime when they were not enough, after a checkpoint.
        """
        checkpoints = folder / "checkpoints"
        failure = folder / "diverged.txt"
        if diverges and failure.exists():
            return None
        last, step = newest_checkpoint(checkpoints)
        if step >= steps and (checkpoints / target).exists():
            return checkpoints / target
        self.say(f"{stage}: {f'from step {step:,}' if step else 'begins'}")
        resume = ["checkpointing.resume_from_ckpt=false"]
        if last:  # which is known to be whole
            resume = [override("checkpointing.resume_ckpt_path", last)]
        status, said = self.call(
            stage,
            CLONE if host else MINIHOST,
            [
                override("hydra.run.dir", folder),
                *overrides,
                f"trainer.max_steps={steps}",
                *resume,
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
            raise OutOfTime(f"{stage} is at step {step:,} of {steps:,}.")
        raise self.failed(stage, status, said, f" at step {step:,} of {steps:,}")


def spent(last: Path | None) -> float:
    """Return the seconds of training behind a checkpoint, as Lightning's Timer counts them."""
    if last is None:
        return 0.0
    state = torch.load(last, map_location="cpu", weights_only=True, mmap=True)
    timer = state.get("callbacks", {}).get("Timer", {})
    return float(timer.get("time_elapsed", {}).get("train", 0.0))


def limit(last: Path | None, seconds: float | None) -> list[str]:
    """Return `trainer.max_time` for a run that has `seconds` more.

    A resumed Timer counts on from what its checkpoint says, so that is added.
    """
    if seconds is None:
        return []
    minutes, seconds = divmod(math.ceil(spent(last) + seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return [f"+trainer.max_time='{days:02d}:{hours:02d}:{minutes:02d}:{seconds:02d}'"]
