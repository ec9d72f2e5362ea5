"""The parts of the speed benchmark: steps, samples, growth, processes.

Each yields rows, dicts that `speed.py` writes as JSON and prints.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from paper.compose import embedded
from paper.cost import count
from paper.experiments import METHODS

from .worker import Size, Worker, in_turn, make_assets, median

OTHERS = ("sdtt", "subset", "cd4lm", "dcd", "mmd")
BYTES = 4  # of a weight, its gradient and the optimizer's state
STATES = 6  # weights, teacher, gradient, average and AdamW's two moments
# (width, blocks): 23M parameters at GPT-2's vocabulary, 58M, 170M, 424M, and the paper's 863M
SHAPES = ((192, 8), (384, 12), (768, 12), (1024, 24), (1536, 24))


@dataclass
class Bench:
    """One run of the benchmark. hosts: clones by name."""

    size: Size
    folder: Path
    hosts: dict[str, Path]
    repeats: int
    tiny: bool

    def __post_init__(self):
        self._count = itertools.count()
        self._made: dict[tuple, Path] = {}

    def mcd(self, size: Size | None = None, **how) -> Worker:
        return self.worker((size or self.size).method("mcd"), size, **how)

    def worker(self, algo: tuple[str, ...], size: Size | None = None, **how) -> Worker:
        size = size or self.size
        key = size.vocab, size.length, size.batch
        if key not in self._made:
            self._made[key] = self.folder / f"assets-{len(self._made)}"
            self._made[key].mkdir(parents=True)
            make_assets(self._made[key], size)
        out = self.folder / f"run-{next(self._count)}"
        return Worker(size, self._made[key], out, algo, **how)

    # (a) and (e) ----------------------------------------------------------------------

    def variants(self) -> Iterator[tuple[str, dict]]:
        """Yield the trainings beside MCD's own, by name."""
        method = self.size.method
        yield "mcd, dense", {"algo": method("mcd", "+callbacks.gate.dense=true")}
        yield "mcd, compiled", {"algo": method("mcd", "algo.compile=true")}
        yield from ((name, {"algo": method(name)}) for name in OTHERS)
        yield "mdlm (minihost)", {"algo": method("mdlm")}
        for name, clone in self.hosts.items():
            if name == "mdlm":
                yield "mdlm (mdlm)", {"algo": (), "clone": clone}
                continue
            yield (
                f"mdlm ({name})",
                {"algo": ("algo=mdlm", "sampling.predictor=ancestral_cache"), "clone": clone},
            )
            cache = f"algo.integral_cache_path={clone}/integral/gpt2.pkl"
            yield f"distillation ({name})", {"algo": ("algo=distillation", cache), "clone": clone}

    def steps(self) -> Iterator[dict]:
        """Time each training's step beside MCD's, the two in turn, and MCD's floor."""
        with self.mcd() as mcd:  # whose peak is not the step's
            yield self.floor(mcd)
        with self.mcd() as mcd:
            for name, how in self.variants():
                try:
                    with self.worker(**how) as other:
                        found = in_turn({"mcd": mcd, name: other}, "step", self.repeats)
                except RuntimeError as error:
                    yield {"part": "step", "name": name, "error": str(error)[-400:]}
                    continue
                row = {"part": "step", "name": name}
                for key, ratio in (("ms", "ratio"), ("gib", "gib_ratio")):
                    row[key], row[f"mcd_{key}"] = (median(found[x], key) for x in (name, "mcd"))
                    row[ratio] = row[f"mcd_{key}"] / row[key]
                yield row

    def floor(self, mcd: Worker) -> dict:
        """Count a step's operations and bytes, and the time they take at the ceilings.

        Bytes: each weight read for student and teacher, its gradient written, and read by
        the norm; AdamW reads weight, gradient and two moments and writes three of them;
        the average is read and written: 13 passes over the weights. Logits: each written
        and read once, and the gradient's likewise; activations are left out.
        """
        rates, flop = mcd.ask("ceilings"), mcd.ask("count")["flop"]
        size = self.size
        logits = 3 * 2 * size.batch * size.length * (size.vocab + 1) / 2  # half are masked
        moved = BYTES * (13 * mcd.parameters + logits)
        ms = 1e3 * (flop / (1e12 * rates["tflops"]) + moved / (1e12 * rates["tb_s"]))
        took = median(in_turn({"mcd": mcd}, "step", self.repeats)["mcd"], "ms")
        return {
            "part": "floor",
            **rates,
            "parameters": mcd.parameters,
            "gflop": flop / 1e9,
            "gbyte": moved / 1e9,
            "floor_ms": ms,
            "mcd_ms": took,
            "ratio": took / ms,
        }

    # (c) ------------------------------------------------------------------------------

    def samples(self) -> Iterator[dict]:
        """Time the hosts' `ancestral_cache` and our samplers with the same weights, in turn.

        Of a clone also ours in the package's own network, as `mdlm-mcd sample` opens its files.
        """
        steps = (2, 4) if self.tiny else (8, 32, 128, 512)
        hosts = {"minihost": None, **{k: v for k, v in self.hosts.items() if k != "mdlm"}}
        for name, clone in hosts.items():
            with self.mcd(clone=clone) as worker:
                worker.ask("step")  # weights away from their zero start
                ours = ("sparse", "locked", *["sparse@dit"] * (clone is not None))
                for n in steps:
                    found = {
                        p: [worker.ask(f"sample {p} {n}") for _ in range(1 if n > 32 else 2)][-1]
                        for p in ("ancestral_cache", *ours)
                    }
                    theirs = found["ancestral_cache"]["seconds"]
                    for predictor, row in found.items():
                        times = theirs / row["seconds"]
                        of = {"host": name, "predictor": predictor, "steps": n}
                        yield {"part": "sample", **of, **row, "times_faster": times}

    # (d) and (f) ----------------------------------------------------------------------

    def growth(self) -> Iterator[dict]:
        """Time MCD's step against length, batch, vocabulary and parameters, with exponents.

        What does not fit into the memory is counted alone, on the meta device.
        """
        base = replace(self.size, width=256, blocks=4, batch=1)
        axes = {
            "length": [replace(base, length=n) for n in (128, 512, 2048, 4096)],
            "batch": [replace(base, batch=n) for n in (1, 2, 4, 8)],
            "vocab": [replace(base, vocab=n) for n in (1000, 8000, 32_000, 128_000)],
            "parameters": [replace(base, width=w, blocks=n) for w, n in SHAPES],
        }
        if self.tiny:
            length = self.size.length
            axes = {
                "length": [replace(self.size, length=n) for n in (length, 2 * length)],
                "parameters": [self.size, replace(self.size, width=1 << 14)],
            }
        for name, sizes in axes.items():
            found = []
            for size in sizes:
                row = {"part": "growth", "of": name, **self.counted(size)}
                if row["parameters"] * STATES * BYTES < 0.8 * memory(size.device):
                    with self.mcd(size) as worker:
                        rows = in_turn({"mcd": worker}, "step", self.repeats)["mcd"]
                    row |= {key: median(rows, key) for key in ("ms", "gib")}
                    found.append(row)
                yield row
            yield {"part": "exponent", "of": name, "ms": exponent(found, name)}

    def counted(self, size: Size) -> dict:
        """Return a step's size, parameters and operations, counted on the meta device."""
        model = embedded(size.model()).model
        counted = count(model, size.vocab + 1)
        gflop = counted.step(size.batch, METHODS["mcd"]) / 1e9
        axes = {"length": size.length, "batch": size.batch, "vocab": size.vocab}
        return {**axes, "parameters": counted.parameters, "gflop": gflop}

    def processes(self) -> Iterator[dict]:
        """Time a step of one process and of two with the same global batch, a core each."""
        size = replace(self.size, threads=1, batch=max(2, self.size.batch))
        found = {}
        for devices in (1, 2):
            with self.mcd(size, devices=devices) as worker:
                found[devices] = median(in_turn({"mcd": worker}, "step", self.repeats)["mcd"], "ms")
        yield {
            "part": "processes",
            "one_ms": found[1],
            "two_ms": found[2],
            "times_faster": found[1] / found[2],
        }


def memory(device: str) -> int:
    """Return a device's memory in bytes: of the machine for the CPU."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def exponent(rows: list[dict], name: str) -> float:
    """Fit ms ~ name^k by least squares of the logarithms; return k."""
    import numpy as np

    return float(np.polyfit(*(np.log([r[key] for r in rows]) for key in (name, "ms")), 1)[0])
