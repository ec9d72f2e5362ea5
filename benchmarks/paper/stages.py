"""Stages of the tables: `mdlm_mcd.commands.stages`, with one log and a sentence each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mdlm_mcd.checkpoints.files import make_folder
from mdlm_mcd.commands import stages
from mdlm_mcd.commands.stages import StageError

COMMAND = "mdlm_mcd.commands.main"
# What the guard says of a loss that has left its scale (distillers/divergence_guard.py).
DIVERGED = "was to be expected"


class Stages:
    """Run stages in the folder `out`, with one log; `say` gets a line of each."""

    def __init__(self, out: Path, start=stages.start, say=print):
        self.out, self.start, self.say = make_folder(out), start, say
        self.log = self.out / "log.txt"

    def must(self, stage, module, arguments, folder=None) -> None:
        """Run a stage. Raises StageError with the end of its output."""
        done = stages.run(module, arguments, self.log, folder=folder, start=self.start)
        if done.status != 0:
            raise self.failed(stage, done)

    def failed(self, stage: str, done: stages.Ended, where: str = "") -> StageError:
        how = f"{where} (exit status {done.status}; log: {self.log})"
        return StageError(f"{stage} stopped{how}. Its last lines: {done.last_lines}")

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
        if not path.exists():
            self.say(f"{label}: trains to step {steps:,}")
        done = stages.train(folder, overrides, steps, self.log, host=host, start=self.start)
        if diverges and done.status and DIVERGED in done.output:
            failure.write_text(done.output[-2_000:], "utf-8")
            return None
        if done.status or done.step < steps or not path.exists():
            raise self.failed(label, done, f" at step {done.step:,} of {steps:,}")
        return path
