"""Find leaks of a long run: memory, tensors, open files and logs.

    python benchmarks/longrun.py [--steps 2400] [--every 100] [--warm-up 600]

Distils a tiny student in the embedded host with all that a real run does: rounds,
validations, checkpoints, a CSV log of every step. Prints a table, and ends with status
1 if anything grew after the warm-up: resident memory by more than 1%, tensors or open
files at all, or the log faster per step than before. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import statistics
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import lightning as L
import tiny_run
import torch
from paper.compose import embedded

from mdlm_mcd.minihost import main as minihost

ROUNDS, SLACK = 3, 0.01


@dataclass
class Reading:
    """Resources of a process after some optimizer steps; memory and logs in bytes."""

    step: int
    memory: int
    tensors: int
    files: int
    log: int


class Meter(L.Callback):
    """Reads every `every` optimizer steps, after the garbage is gone."""

    def __init__(self, every: int, folder: Path):
        self.every, self.folder, self.readings = every, folder, []

    def on_train_batch_end(self, trainer, *args):
        step = trainer.global_step
        if step % self.every or (self.readings and self.readings[-1].step == step):
            return
        trainer.logger.save()
        self.readings.append(read(step, self.folder))


def read(step: int, folder: Path) -> Reading:
    gc.collect()
    with warnings.catch_warnings():  # some objects warn when their class is asked for
        warnings.simplefilter("ignore")
        tensors = sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects())
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    logs = [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".ckpt"]
    return Reading(
        step,
        pages * os.sysconf("SC_PAGE_SIZE"),
        tensors,
        len(os.listdir("/proc/self/fd")),
        sum(p.stat().st_size for p in logs),
    )


def run(folder: Path, steps: int, every: int) -> list[Reading]:
    """Return the readings of one run of `steps` optimizer steps, its files in `folder`."""
    if steps % ROUNDS:
        raise ValueError(f"steps={steps} do not divide into {ROUNDS} rounds.")
    per_round = steps // ROUNDS
    config = embedded(
        [
            *tiny_run.overrides(folder, folder / "corpus.txt", ROUNDS, per_round),
            "logger=csv",
            "trainer.devices=1",
            f"trainer.val_check_interval={max(1, per_round // 4)}",
            f"callbacks.checkpoint_every_n_steps.every_n_train_steps={per_round // 4}",
        ]
    )
    meter, make = Meter(every, folder), minihost.make_trainer

    def make_trainer(*args, **kwargs):
        trainer = make(*args, **kwargs)
        trainer.callbacks.append(meter)
        return trainer

    with mock.patch.object(minihost, "make_trainer", make_trainer), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minihost.run(config)
    return meter.readings


def verdict(readings: list[Reading], warm_up: int) -> list[str]:
    """Return what grew after `warm_up` steps, in words; empty if nothing did.

    Each half of the readings after the warm-up is represented by its median, since memory
    varies; the log is judged by its bytes per step.
    """
    after = [r for r in readings if r.step > warm_up]
    if len(after) < 4:
        raise ValueError(f"{len(after)} readings after the warm-up are too few.")
    halves = after[: len(after) // 2], after[len(after) // 2 :]

    def middle(name: str) -> tuple[float, float]:
        early, late = (statistics.median(getattr(r, name) for r in half) for half in halves)
        return early, late

    said = []
    early, late = middle("memory")
    if late > (1 + SLACK) * early:
        said.append(f"resident memory grew by {late / early - 1:.1%}")
    for name, words in (("tensors", "live tensors"), ("files", "open files")):
        early, late = middle(name)
        if late > early:
            said.append(f"{words} grew from {early:g} to {late:g}")
    rates = [(half[-1].log - half[0].log) / (half[-1].step - half[0].step) for half in halves]
    if rates[1] > 1.1 * rates[0]:
        said.append(f"the log's bytes per step grew from {rates[0]:.0f} to {rates[1]:.0f}")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--warm-up", type=int, default=600)
    args = parser.parse_args()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        readings = run(Path(folder), args.steps, args.every)
    print(f"{'step':>6}{'memory MiB':>12}{'tensors':>9}{'files':>7}{'log KiB':>9}")
    for r in readings:
        print(
            f"{r.step:>6}{r.memory / 2**20:>12.1f}{r.tensors:>9}{r.files:>7}{r.log / 2**10:>9.0f}"
        )
    said = verdict(readings, args.warm_up)
    print("grew: " + "; ".join(said) if said else "nothing grew")
    return bool(said)


if __name__ == "__main__":
    sys.exit(main())
