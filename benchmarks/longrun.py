"""Find leaks of a long run: memory, tensors, open files and logs.

    python benchmarks/longrun.py

Distils a tiny student in the embedded host with all that a real run does: rounds,
validations, checkpoints, a CSV log of every step. Prints a table, and ends with status
1 if anything grew after the warm-up: resident memory by more than 1%, tensors or open
files at all, or the log faster per step than before. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import lightning as L
import tiny_run
import torch
from bench.train import silence
from paper.compose import embedded

from mdlm_mcd.minihost import main as minihost

STEPS, EVERY, WARM_UP = 2_400, 100, 600
ROUNDS, SLACK = 3, 0.01


class Reading(NamedTuple):
    """Resources of a process after some optimizer steps; memory and logs in bytes."""

    step: int
    memory: int
    tensors: int
    files: int
    log: int


class Meter(L.Callback):
    """Read every `every` optimizer steps, after the garbage is gone."""

    def __init__(self, every: int, folder: Path):
        self.every, self.folder, self.readings = every, folder, []

    def on_train_batch_end(self, trainer, *args):
        step = trainer.global_step
        if step % self.every == 0 and not any(r.step == step for r in self.readings):
            trainer.logger.save()
            self.readings.append(read(step, self.folder))


def read(step: int, folder: Path) -> Reading:
    gc.collect()
    tensors = sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects())
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    logs = [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".ckpt"]
    memory, files = pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))
    return Reading(step, memory, tensors, files, sum(p.stat().st_size for p in logs))


def run(folder: Path, steps: int, every: int) -> list[Reading]:
    """Return the readings of one run of `steps` steps, its files in `folder`."""
    per_round, meter, make = steps // ROUNDS, Meter(every, folder), minihost.make_trainer
    config = embedded(
        [
            *tiny_run.overrides(folder, folder / "corpus.txt", ROUNDS, per_round),
            "logger=csv",
            "trainer.devices=1",
            f"trainer.val_check_interval={max(1, per_round // 4)}",
            f"callbacks.checkpoint_every_n_steps.every_n_train_steps={per_round // 4}",
        ]
    )

    def make_trainer(*args, **kwargs):
        trainer = make(*args, **kwargs)
        trainer.callbacks.append(meter)
        return trainer

    with mock.patch.object(minihost, "make_trainer", make_trainer), silence():
        minihost.run(config)
    return meter.readings


def verdict(readings: list[Reading], warm_up: int) -> list[str]:
    """Return what grew after `warm_up` steps, in words; empty if nothing did.

    Each half of the readings after the warm-up is represented by its median, since memory
    varies; the log is judged by its bytes per step.
    """
    after = [r for r in readings if r.step > warm_up]
    halves = after[: len(after) // 2], after[len(after) // 2 :]
    early, late = (Reading(*map(statistics.median, zip(*half, strict=True))) for half in halves)
    pace = [(half[-1].log - half[0].log) / (half[-1].step - half[0].step) for half in halves]
    found = {
        "resident memory": (early.memory, late.memory, 1 + SLACK),
        "tensors": (early.tensors, late.tensors, 1),
        "files": (early.files, late.files, 1),
        "the log's bytes per step": (*pace, 1.1),
    }
    return [
        f"{name} grew from {one:g} to {other:g}"
        for name, (one, other, factor) in found.items()
        if other > factor * one
    ]


def main() -> int:
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        readings = run(Path(folder), STEPS, EVERY)
    print(f"{'step':>6}{'memory MiB':>12}{'tensors':>9}{'files':>7}{'log KiB':>9}")
    for r in readings:
        memory, log = r.memory / 2**20, r.log / 2**10
        print(f"{r.step:>6}{memory:>12.1f}{r.tensors:>9}{r.files:>7}{log:>9.0f}")
    found = verdict(readings, WARM_UP)
    print("grew: " + "; ".join(found) if found else "nothing grew")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
