"""Kill a distillation again and again, and compare it with one that was never stopped.

    python benchmarks/stress.py --kills 54
    python benchmarks/stress.py --kills 24 --devices 2

A tiny `algo=mcd` run of the embedded host (dropout, accumulation, epochs that are no
whole number of steps, validations, three rounds) is started, killed at a seeded random
moment, and started again by the same command until it is done; then again in another
folder, until enough kills have fallen. Its losses, its students of each round and the
whole of its last checkpoint have to be those of the uninterrupted run, bit for bit.
With several devices (processes, DDP over gloo) a signal goes to one or to all of them,
and the others have to end, too: with status 0 where it was SIGTERM.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import time
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

import lightning as L
import tiny_run
import torch

from mdlm_mcd.distillers import checkpoint_io
from mdlm_mcd.minihost import main as entry

PHASES = {
    "start": "before the first step",
    "step": "in an optimizer step",
    "round": "at a round's boundary",
    "write": "while a checkpoint is written",
    "rename": "while it takes its name",
    "validation": "in a validation",
}
SIGNALS = ("KILL", "TERM", "TERM, KILL")  # the last: no patience with the saving
PAUSE = 0.02  # seconds in which a kill can fall into a moment
PATIENCE = 60  # seconds until the others have to notice that a process has died
COMPARED = "global_step epoch state_dict ema optimizer_states lr_schedulers mdlm_mcd".split()

# Seven batches an epoch: three optimizer steps of two, and one of one.
OVERRIDES = """
    optim.lr=1e-2 model.dropout=0.2 training.ema=0.9 lr_scheduler.num_warmup_steps=5
    trainer.limit_train_batches=7 trainer.val_check_interval=5
    callbacks.checkpoint_every_n_steps.every_n_train_steps=2
"""


class Kill(NamedTuple):
    """Where a signal fell, and the exit statuses of the processes (0, or minus a signal)."""

    phase: str
    signal: str
    ranks: tuple[int, ...]
    statuses: tuple[int, ...]


class Start:
    """The processes of one start of a run, by the environment that torchrun sets."""

    def __init__(self, context, devices: int, *args):
        self.pipes, self.processes = [], []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(devices):
            joined = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=f"{port}", NODE_RANK="0")
            joined |= dict(WORLD_SIZE=f"{devices}", RANK=f"{rank}", LOCAL_RANK=f"{rank}")
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=child, args=(there, *args, joined))
            process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)

    def phases(self, patience: float = PATIENCE):
        """Yield the phases they report until all have ended; those that hang are killed."""
        pipes, end = list(self.pipes), None
        while pipes:
            for pipe in wait(pipes, timeout=1):
                try:
                    yield pipe.recv()
                except (EOFError, OSError):
                    pipes.remove(pipe)
            if end is None and any(p.exitcode for p in self.processes):
                end = time.monotonic() + patience
            if end and time.monotonic() > end:
                self.send(range(len(self.processes)), "KILL")

    def statuses(self) -> tuple[int, ...]:
        for process in self.processes:
            process.join()
        return tuple(process.exitcode for process in self.processes)

    def send(self, ranks, kind: str) -> None:
        for rank in ranks:
            process = self.processes[rank]
            process.kill() if kind == "KILL" else process.terminate()


class Stress:
    """Runs in the folder `out`; all they have in common is in `out/shared`."""

    def __init__(self, out: Path, rounds: int = 3, steps: int = 12, devices: int = 1):
        self.out = out.resolve()  # a run changes into its folder
        self.rounds, self.steps, self.devices = rounds, steps, devices
        self.shared = self.out / "shared"
        self.shared.mkdir(parents=True)
        # Each process comes from one that has only imported: seconds saved.
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([__name__, "mdlm_mcd.evaluation.embedded"])

    def start(self, name: str) -> Start:
        """Begin run `name`, or go on with it."""
        folder = self.out / name
        command = [
            *tiny_run.overrides(folder, self.shared / "corpus.txt", self.rounds, self.steps),
            *OVERRIDES.split(),
            f"trainer.devices={self.devices}",
            f"loader.batch_size={4 // self.devices}",
            f"strategy={'ddp' if self.devices > 1 else 'auto'}",
            f"hydra.run.dir={folder}",
        ]
        return Start(self.context, self.devices, str(folder), command, self.steps)

    def finish(self, name: str) -> None:
        start = self.start(name)
        for _ in start.phases():
            pass
        self.require(not any(start.statuses()), name, "did not finish")

    def once(self, name: str, wanted: str, kind: str, draw) -> Kill | None:
        """Start, and kill at a random moment; None where the run was faster."""
        number, killed = draw.randint(1, 3), None
        ranks = everyone = tuple(range(self.devices))
        if self.devices > 1:
            ranks = draw.choice([everyone, *((rank,) for rank in everyone)])
        start = self.start(name)
        if wanted == "start":
            time.sleep(draw.uniform(0, 1))
            killed = wanted
            start.send(ranks, kind)
        # A process that was not joined yet would wait for half an hour.
        for phase in start.phases(1 if killed else PATIENCE):
            if killed is None and phase == wanted:
                number -= 1
                if number <= 0:
                    time.sleep(draw.uniform(0, PAUSE))
                    killed = phase
                    start.send(ranks, kind)
            elif killed and kind == "TERM, KILL" and phase in ("write", "rename"):
                start.send(ranks, "KILL")
        statuses = start.statuses()
        for rank, status in enumerate(statuses):
            # Those killed end by the signal or well, the others well if they did.
            good = [0, -signal.SIGKILL, -signal.SIGTERM]
            if rank not in ranks and killed != "start":
                good = [0, 1] if any(statuses[r] for r in ranks) else [0]
            self.require(status in good, name, f"ended with status {status} of process {rank}")
        return Kill(killed, kind, ranks, statuses) if killed else None

    def done(self, name: str) -> bool:
        """Return whether there is a last checkpoint at the last step."""
        last = self.rounds * self.steps
        try:
            return self.saved(name, "last.ckpt")["global_step"] == last
        except FileNotFoundError:
            return False

    def saved(self, name: str, file: str) -> dict:
        return torch.load(self.out / name / "checkpoints" / file, weights_only=True)

    def compare(self, name: str) -> int:
        """Raise SystemExit unless run `name` equals `whole`; count its losses."""
        for file in (*(f"round-{k + 1}.ckpt" for k in range(self.rounds)), "last.ckpt"):
            one, other = self.saved("whole", file), self.saved(name, file)
            for key in COMPARED:
                where = differs(one[key], other[key], key)
                self.require(where is None, name, f"has another {where} in {file}")
        reference, again = self.trace("whole"), self.trace(name)
        differ = {key for key, values in again.items() if values != reference.get(key)}
        self.require(not differ, name, f"differs at {differ}")
        missing = [k for k in reference.keys() - again.keys() if k[0] == "batch"]
        self.require(not missing, name, f"lacks {missing}")
        return len(again)

    def trace(self, name: str) -> dict:
        """Return what was noted, sets by (what, number, process): steps are run again."""
        noted = collections.defaultdict(set)
        for rank in range(self.devices):
            for line in Path(f"{self.out / name}-{rank}.jsonl").read_text("utf-8").splitlines():
                (what, number), *rest = json.loads(line).items()
                noted[what, number, rank].add(tuple(rest))
        return noted

    def require(self, good: bool, name: str, what: str) -> None:
        if not good:
            raise SystemExit(f"Run {self.out / name} {what}; log: {self.out / name}.log")


class Watch(L.Callback):
    """Note losses, and report to the parent where the run is."""

    def __init__(self, tell, trace, steps_per_round: int):
        self.tell, self.trace, self.steps_per_round = tell, trace, steps_per_round

    def note(self, **record):
        self.trace.write(json.dumps(record) + "\n")
        self.trace.flush()

    def on_train_batch_start(self, trainer, *args):
        at_round = trainer.global_step % self.steps_per_round == 0
        self.tell("round" if at_round else "step")

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.note(
            batch=trainer.fit_loop.epoch_loop.total_batch_idx,
            step=trainer.global_step,
            round=module.teacher.round,
            loss=float(outputs["loss"]).hex(),
        )
        self.on_train_batch_start(trainer)

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
        open(f"{folder}-{joined['LOCAL_RANK']}.jsonl", "a", encoding="utf-8") as trace,
    ):
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        entry.main()


def differs(a, b, where: str) -> str | None:
    """Return the first place in which two nested containers differ, bit for bit."""
    if isinstance(a, torch.Tensor):
        return None if torch.equal(a, b) else where
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        items = [(a[k], b[k], f"{where}.{k}") for k in a]
    elif isinstance(a, list | tuple) and type(a) is type(b) and len(a) == len(b):
        items = [(x, y, f"{where}.{i}") for i, (x, y) in enumerate(zip(a, b, strict=True))]
    else:
        return None if a == b else where
    return next(filter(None, (differs(*item) for item in items)), None)


def table(kills: list[Kill]) -> str:
    count = collections.Counter((k.phase, k.signal) for k in kills)
    lines = [f"{'':<32}" + "".join(f"{s:>12}" for s in SIGNALS)]
    for phase, text in PHASES.items():
        cells = "".join(f"{count[phase, s]:>12}" for s in SIGNALS)
        lines.append(f"{text:<32}" + cells)
    return "\n".join(lines)


def run(out: Path, kills: int, seed: int, say=print, **sizes) -> list[Kill]:
    """Kill until `kills` have fallen, in as many runs as that takes."""
    stress, draw = Stress(out, **sizes), random.Random(seed)
    phases = draw.sample(list(PHASES), len(PHASES))
    # All phases in turn, with another signal each time.
    moments = ((phases[i % 6], SIGNALS[(i + i // 6) % 3]) for i in itertools.count())
    stress.finish("whole")
    fallen: list[Kill] = []
    runs = starts = losses = 0
    while len(fallen) < kills:
        runs += 1
        name = f"run-{runs}"
        while not stress.done(name):
            starts += 1
            if len(fallen) == kills:
                stress.finish(name)
            elif kill := stress.once(name, *next(moments), draw):
                fallen.append(kill)
                of = f"of {kill.ranks}: {kill.statuses}" if stress.devices > 1 else ""
                say(f"{name}: {kill.signal} {PHASES[kill.phase]} {of}")
        losses += stress.compare(name)
    asked = [k for k in fallen if k.signal == "TERM" and k.phase != "start"]
    clean = sum(not any(k.statuses) for k in asked)
    say(
        f"{len(fallen)} kills in {runs} runs ({starts} starts) of {stress.rounds} "
        f"rounds of {stress.steps} steps, {stress.devices} process(es), seed {seed}:\n"
        f"{table(fallen)}\n"
        f"Status 0 after SIGTERM alone: {clean} of the {len(asked)} that had begun.\n"
        f"{losses} losses and validations, students, EMA, teacher, optimizer: all as "
        "in the run that was never stopped, bit for bit."
    )
    return fallen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=54)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--devices", type=int, default=1, choices=(1, 2, 4))
    parser.add_argument("--out", type=Path, help="a new folder; default: thrown away")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = args.out or Path(folder, "stress")
        run(out, args.kills, args.seed, devices=args.devices)


if __name__ == "__main__":
    main()
