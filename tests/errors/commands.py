"""Our commands, called in this process with what the command line gives them."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from unittest import mock

import lightning as L
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


class Meddler(L.Callback):
    """Writes to the teacher, which nobody may."""

    def on_before_optimizer_step(self, trainer, module, optimizer):
        with torch.no_grad():
            next(module.teacher.backbone.parameters()).add_(1)


class Shell:
    """tiny: overrides of a small minihost; folder: where runs and files go."""

    def __init__(self, tiny, folder: Path, teacher: Path, judge: Path):
        self.tiny, self.folder = tiny, folder
        self.teacher, self.judge = teacher, judge

    def host(self, *overrides: str) -> tuple[int, str]:
        """`python -m mdlm_mcd.minihost.main OVERRIDES`: status and what was printed."""
        argv = ["main.py", *self.tiny, f"hydra.run.dir={self.folder}/run", *QUIET]
        argv += [f"checkpointing.save_dir={self.folder}", *overrides]
        with mock.patch.object(sys, "argv", argv):
            return self._call(minihost.main)

    def mcd(self, *overrides: str) -> tuple[int, str]:
        """One step of `algo=mcd` from random weights, unless overridden."""
        return self.host(*SHORT, *overrides)

    def from_teacher(self, path, *overrides: str) -> tuple[int, str]:
        return self.mcd("algo.init_from=ema", f"algo.teacher_path={path}", *overrides)

    def command(self, *argv) -> tuple[int, str]:
        """`mdlm-mcd ARGV`."""
        return self._call(lambda: cli.main([str(x) for x in argv]))

    def sweep(self, *argv) -> tuple[int, str]:
        """Two samples of the teacher at two steps, unless overridden."""
        return self.command(
            "sweep",
            self.teacher,
            "--steps",
            "2",
            "--num-samples",
            "4",
            "--bound-rows",
            "2",
            "--evaluator",
            self.judge,
            "--out",
            self.folder / "r.jsonl",
            *argv,
        )

    def _call(self, main) -> tuple[int, str]:
        said, status = io.StringIO(), 0
        GlobalHydra.instance().clear()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                status = main() or 0
            except SystemExit as end:
                # As the interpreter does with what is no number.
                status = end.code if isinstance(end.code, int) else 1
                print("" if isinstance(end.code, int) else end.code)
        return status, " ".join(said.getvalue().split())

    # Files that are not what they should be ---------------------------------------

    def write(self, name: str, text: str = "") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    def changed(self, change, path: Path | None = None) -> Path:
        """The teacher's checkpoint (or another) after change(what it holds)."""
        held = torch.load(path or self.teacher, weights_only=True)
        change(held)
        torch.save(held, self.folder / "changed.ckpt")
        return self.folder / "changed.ckpt"

    def told(self, key: str, value, path: Path | None = None) -> Path:
        """The same with a dotted key of its config changed."""

        def change(held):
            *sections, last = key.split(".")
            config = held["hyper_parameters"]["config"]
            for name in sections:
                config = config[name]
            config[last] = value

        return self.changed(change, path)

    def tokenizer(self, **tokens: str) -> Path:
        """A folder with a tokenizer of a few words and these special tokens."""
        import tokenizers
        import transformers

        words = {word: i for i, word in enumerate(["?", *tokens.values(), "a", "b"])}
        made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))
        named = {f"{name}_token": word for name, word in tokens.items()}
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=made, unk_token="?", **named
        ).save_pretrained(self.folder / "words")
        return self.folder / "words"
