"""Our commands, called in this process with what the command line gives them."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from unittest import mock

import torch
from hydra.core.global_hydra import GlobalHydra

from mdlm_mcd.commands import main as cli
from mdlm_mcd.minihost import main as minihost

QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none")
SHORT = (
    "algo=mcd",
    "algo.init_from=scratch",
    "algo.rounds=1",
    "algo.steps_per_round=1",
    "trainer.max_steps=1",
)


def call(main, argv=None, encoding="utf-8") -> tuple[int, str]:
    """Call a command's `main`: its exit status, and what it printed."""
    printed, status = io.TextIOWrapper(io.BytesIO(), encoding), 0
    # argparse wants options before overrides; the sort is stable.
    argv = argv and [argv[0], *sorted(argv[1:], key=lambda o: not o.startswith("-"))]
    GlobalHydra.instance().clear()
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        mock.patch.object(sys, "argv", argv or sys.argv),
    ):
        try:
            status = main() or 0
        except SystemExit as end:
            # As the interpreter does with what is no number.
            status = end.code if isinstance(end.code, int) else 1
            print("" if isinstance(end.code, int) else end.code)
    printed.flush()
    return status, printed.buffer.getvalue().decode(encoding)


class Shell:
    """tiny: overrides of a small minihost; folder: where runs and files go."""

    def __init__(self, tiny, folder: Path, teacher: Path, judge: Path):
        self.tiny, self.folder = tiny, folder
        self.teacher, self.judge = teacher, judge

    def host(self, *overrides: str) -> tuple[int, str]:
        """`python -m mdlm_mcd.minihost.main OVERRIDES`."""
        argv = ["main.py", *self.tiny, f"hydra.run.dir={self.folder}/run", *QUIET]
        argv += [f"checkpointing.save_dir={self.folder}", *overrides]
        return self._words(call(minihost.main, argv))

    def mcd(self, *overrides: str) -> tuple[int, str]:
        """One step of `algo=mcd` from random weights, unless overridden."""
        return self.host(*SHORT, *overrides)

    def from_teacher(self, path, *overrides: str) -> tuple[int, str]:
        return self.mcd("algo.init_from=ema", f"algo.teacher_path={path}", *overrides)

    def command(self, *argv) -> tuple[int, str]:
        """`mdlm-mcd ARGV`."""
        return self._words(call(lambda: cli.main([str(x) for x in argv])))

    def sweep(self, *argv) -> tuple[int, str]:
        """Four samples of the teacher at two steps, unless overridden."""
        few = "--steps 2 --num-samples 4 --bound-rows 2".split()
        files = ("--evaluator", self.judge, "--out", self.folder / "r.jsonl")
        return self.command("sweep", self.teacher, *few, *files, *argv)

    @staticmethod
    def _words(ended: tuple[int, str]) -> tuple[int, str]:
        return ended[0], " ".join(ended[1].split())

    # Files that are not what they should be ---------------------------------------

    def write(self, name: str, text: str | bytes = "") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def changed(self, change, path: Path | None = None) -> Path:
        """The teacher's checkpoint (or another) after change(what is in it)."""
        content = torch.load(path or self.teacher, weights_only=True)
        change(content)
        torch.save(content, self.folder / "changed.ckpt")
        return self.folder / "changed.ckpt"
