"""The process that `stress.py` kills: a run that reports its phase."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import time
from pathlib import Path

import lightning as L
import torch

from mdlm_mcd.distillers import checkpoint_io
from mdlm_mcd.minihost import main as entry

PAUSE = 0.02  # seconds in which a kill can fall into a moment


def trace_of(folder: Path | str, rank: int | str) -> Path:
    return Path(f"{folder}-{rank}.jsonl")


class Watch(L.Callback):
    """Note losses, and report to the parent where the run is."""

    def __init__(self, tell, trace, steps_per_round: int):
        self.tell, self.trace, self.steps_per_round = tell, trace, steps_per_round

    def note(self, **record):
        self.trace.write(json.dumps(record) + "\n")
        self.trace.flush()

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.tell_step(trainer)

    def tell_step(self, trainer):
        at_round = trainer.global_step % self.steps_per_round == 0
        self.tell("round" if at_round else "step")

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.note(
            batch=trainer.fit_loop.epoch_loop.total_batch_idx,
            step=trainer.global_step,
            round=module.teacher.round,
            loss=float(outputs["loss"]).hex(),
        )
        self.tell_step(trainer)

    def on_validation_batch_start(self, trainer, *args):
        if not trainer.sanity_checking:
            self.tell("validation")

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            value = float(trainer.callback_metrics["val/nll"])
            self.note(validated=trainer.global_step, nll=value.hex())


def child(
    pipe, folder: str, command: list[str], steps_per_round: int, joined: dict[str, str]
) -> None:
    """Run it, with pauses in which it can be killed."""
    torch.set_num_threads(1)
    os.environ.update(joined)

    def tell(phase: str) -> None:
        with contextlib.suppress(OSError):
            pipe.send(phase)
            time.sleep(PAUSE)

    replace, write, make = os.replace, checkpoint_io.Recorded.write, entry.make_trainer
    pieces = itertools.count(1)

    def telling_replace(part, name):
        if str(name).endswith(".ckpt"):
            tell("rename")
        replace(part, name)

    def telling_write(*args):
        if next(pieces) % 41 == 0:  # of some hundred that make a checkpoint
            tell("write")
        return write(*args)

    os.replace, checkpoint_io.Recorded.write = telling_replace, telling_write

    def make_trainer(*args, **kwargs):
        trainer = make(*args, **kwargs)
        trainer.callbacks.insert(0, Watch(tell, trace, steps_per_round))
        return trainer

    entry.make_trainer = make_trainer
    sys.argv = ["minihost", *command]
    with (
        open(f"{folder}.log", "a", encoding="utf-8") as log,
        open(trace_of(folder, joined["LOCAL_RANK"]), "a", encoding="utf-8") as trace,
    ):
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        entry.main()
