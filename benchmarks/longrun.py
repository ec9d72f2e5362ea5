"""A long run that holds on to nothing: memory, tensors, open files and logs.

    python benchmarks/longrun.py [--steps 2400] [--every 100] [--warm-up 600]

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
import warnings
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from bench.train import Silence, compose

from mdlm_mcd.minihost import main as minihost

ROUNDS, SLACK = 3, 0.01


@dataclass
class Reading:
    """What a process holds after some optimizer steps; memory and logs in bytes."""

    step: int
    memory: int
    tensors: int
    files: int
    log: int


class Meter(L.Callback):
    """Reads every `every` optimizer steps, after the garbage is gone."""

    readings: list[Reading] = []

    def __init__(self, every: int, folder: str):
        self.every, self.folder, self._last = every, Path(folder), 0
        self.readings.clear()

    def on_train_batch_end(self, trainer, *args):
        step = trainer.global_step
        if step == self._last or step % self.every:
            return
        self._last = step
        trainer.logger.save()
        self.readings.append(read(step, self.folder))


def read(step: int, folder: Path) -> Reading:
    gc.collect()
    with warnings.catch_warnings():  # some objects warn when they are looked at
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


def run(folder: Path, steps: int, every: int, *overrides: str) -> list[Reading]:
    """Readings of one run of `steps` optimizer steps, its files in `folder`."""
    if steps % ROUNDS:
        raise ValueError(f"steps={steps} do not divide into {ROUNDS} rounds.")
    per_round = steps // ROUNDS
    words = "the cat sat on a mat and saw one old dog run by its red house".split()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(words), (400, 24), generator=generator).tolist()
    text = folder / "corpus.txt"
    text.write_text("\n\n\n".join(" ".join(words[i] for i in row) for row in drawn))
    config = compose(
        "algo=mcd",
        "algo.init_from=scratch",
        f"algo.rounds={ROUNDS}",
        f"algo.steps_per_round={per_round}",
        "algo.delta0=0.0625",
        f"trainer.max_steps={steps}",
        "trainer.limit_val_batches=2",
        f"trainer.val_check_interval={max(1, per_round // 4)}",
        "trainer.log_every_n_steps=1",
        "data=textfile",
        f"data.files=[{text}]",
        f"data.cache_dir={folder / 'cache'}",
        "data.vocab_size=300",
        "model=laptop",
        "model.hidden_size=32",
        "model.n_blocks=2",
        "model.n_heads=2",
        "model.cond_dim=16",
        "model.length=16",
        "loader.global_batch_size=8",
        "~callbacks.progress",
        f"callbacks.checkpoint_every_n_steps.every_n_train_steps={per_round // 4}",
        f"checkpointing.save_dir={folder}",
        f"+callbacks.meter={{_target_: longrun.Meter, every: {every}, folder: {folder}}}",
        *overrides,
    )
    with Silence():
        minihost.run(config)
    return list(sys.modules["longrun"].Meter.readings)


def verdict(readings: list[Reading], warm_up: int) -> list[str]:
    """What grew after `warm_up` steps, in words; empty if nothing did.

    Each half of the readings after the warm-up speaks through its median, since memory
    breathes; the log is judged by its bytes per step.
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
    sys.modules.setdefault("longrun", sys.modules["__main__"])
    sys.exit(main())
