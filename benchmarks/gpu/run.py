"""Measure a machine: ceilings, training steps, samples.

    python benchmarks/gpu/run.py --out DIR [--device cuda] [--tiny] [--seconds 330]

One line of JSON a figure in DIR/figures.jsonl, written as it is measured. A part that
fails is a line too, so is one that takes twice its time and is ended, and a part that no
longer fits into --seconds is left out. All is one process, where `speed.py` starts many. Sizes:
the 169M DiT, 1,024 tokens, a vocabulary of 50,258, random weights and text. With
--device cpu --tiny it takes seconds, and shows only that all parts run.
"""

import argparse
import contextlib
import gc
import io
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import hydra
import torch

from mdlm_mcd import sampling
from mdlm_mcd.hosts import duo
from mdlm_mcd.minihost import dataloader
from mdlm_mcd.minihost import main as entry

BENCHMARKS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(BENCHMARKS))

from paper.compose import embedded  # noqa: E402
from speed_lib.gate import Finished, Gate, ceilings, clock, peak  # noqa: E402
from speed_lib.worker import LARGE, TEXT, TINY, Size, make_text  # noqa: E402

STEPS = (
    ("mcd",),
    ("mcd", "algo.compile=true"),
    ("mdlm",),
    ("mdlm", "algo.compile=true"),
    ("sdtt", "algo.compile=true"),
    ("subset", "algo.compile=true"),
    ("cd4lm", "algo.compile=true"),
    ("dcd", "algo.compile=true"),
    ("mmd", "algo.compile=true"),
    ("mcd", "algo.compile=true", "algo.head_chunk=1024"),
    ("mcd", "algo.compile=true", "algo.head_chunk=16384"),
    ("mcd", "algo.compile=true", "model.checkpointing=true"),
)
WARM_UP, TIMED = 3, 10
TESTS = BENCHMARKS.with_name("tests") / "test_gpu.py"


class Run:
    """The parts of one run and the file of its figures."""

    def __init__(self, args, work: Path):
        self.args, self.work, self.start = args, work, time.monotonic()
        self.device, self.cuda = torch.device(args.device), args.device == "cuda"
        own = {"precision": "bf16-mixed" if self.cuda else "32-true"}
        self.size = Size(args.device, **{**(TINY if args.tiny else LARGE), **own})
        args.out.mkdir(parents=True, exist_ok=True)

    def write(self, **row):
        row["at"] = round(time.monotonic() - self.start, 1)
        with (self.args.out / "figures.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)

    def part(self, name: str, seconds: float, run, *args):
        """Run one part if `seconds` are left, at most twice as long; an error becomes a line."""
        if self.args.seconds - (time.monotonic() - self.start) < seconds:
            return self.write(part=name, left_out=True)
        if self.cuda:
            gc.collect()  # trainers and models are in cycles, and teachers stay on the device
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        signal.signal(signal.SIGALRM, ended)
        signal.setitimer(signal.ITIMER_REAL, 2 * seconds)
        try:
            run(*args)
        except Exception as error:
            self.write(part=name, error=f"{type(error).__name__}: {error}"[:400])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def tests(self):
        """The tests marked gpu, in a process of their own."""
        if not self.cuda:
            return
        command, path = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", str(TESTS)], "tests.txt"
        status = None
        with (self.args.out / path).open("w+", encoding="utf-8") as file:
            try:
                status = subprocess.run(command, stdout=file, stderr=file).returncode
            finally:  # also where the time ended them
                file.seek(0)
                self.write(part="tests", status=status, end=file.read()[-1500:])

    def ceilings(self):
        name = torch.cuda.get_device_name() if self.cuda else "cpu"
        rates = ceilings(self.device)
        self.write(part="ceilings", **rates, device=name, torch=torch.__version__)

    def model(self, algo: str, *more: str):
        """Return a model of the embedded host, its config and tokenizer."""
        config = embedded(
            [
                *"data=textfile model=small trainer.devices=1".split(),
                *"+trainer.enable_progress_bar=false +trainer.enable_model_summary=false".split(),
                f"data.files=[{self.work / TEXT}]",
                f"checkpointing.save_dir={self.work}",
                *self.size.overrides(self.work),
                *self.size.method(algo, *more),
                *("algo.guard=off",) * (algo != "mdlm"),
            ]
        )
        torch.manual_seed(0)
        tokenizer = dataloader.get_tokenizer(config)
        return entry.model_class(config)(config, tokenizer), config, tokenizer

    def step(self, algo: str, *more: str):
        model, config, tokenizer = self.model(algo, *more)
        rows, _ = dataloader.get_dataloaders(config, tokenizer, skip_valid=True)
        asked = "step\n" * (WARM_UP + TIMED) + "waits\n" * self.cuda
        gate = Gate(commands=io.StringIO(asked), figures=io.StringIO())
        trainer = hydra.utils.instantiate(
            config.trainer,
            callbacks=[gate],
            logger=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
        )
        with contextlib.suppress(Finished):
            trainer.fit(model, rows)
        found, *steps = map(json.loads, gate.figures.getvalue().splitlines())
        timed = [row["ms"] for row in steps[WARM_UP:][:TIMED]]
        ms, tokens = statistics.median_high(timed), self.size.batch * self.size.length
        self.write(
            part="step",
            algo=" ".join((algo, *more)),
            waits=steps[-1].get("waits"),
            batch=self.size.batch,
            length=self.size.length,
            ms=round(ms, 1),
            low=round(min(timed), 1),
            high=round(max(timed), 1),
            tokens_s=round(1e3 * tokens / ms),
            **found,
            precision=str(trainer.precision),
            peak_gib=round(max(row["gib"] for row in steps), 2),
        )

    def samples(self, sampler: str, steps: int, batch: int):
        model, _, _ = self.model("mdlm")
        for p in model.parameters():  # away from the zero start of the last layer
            torch.nn.init.normal_(p, std=0.02)
        denoise = duo.denoiser(model.to(self.device).eval())
        for _ in range(2):  # the second counts
            start = clock(self.device)
            drawn = sampling.sample(
                sampler,
                denoise,
                batch,
                self.size.length,
                steps,
                alpha=lambda t: 1 - t,
                mask_index=model.mask_index,
                vocab_size=model.vocab_size,
                generator=torch.Generator(self.device).manual_seed(1),
            )
            seconds = clock(self.device) - start
        self.write(
            part="samples",
            sampler=sampler,
            steps=steps,
            batch=batch,
            dtype="float64",
            samples_s=round(batch / seconds, 2),
            evaluations=drawn.evaluations,
            peak_gib=round(peak(self.device), 2),
        )

    def all(self):
        self.part("ceilings", 10, self.ceilings)
        self.part("tests", 60, self.tests)
        make_text(self.work, self.size)
        # Compiling takes longer than all that is tiny.
        for how in dict.fromkeys((algo,) for algo, *_ in STEPS) if self.args.tiny else STEPS:
            self.part(f"step {' '.join(how)}", 25, self.step, *how)
        few, many = (2, 2) if self.args.tiny else (8, 64)
        drawn = [("sparse", n, many) for n in (8, 32, 128)]
        drawn += [("ancestral", n, few) for n in (8, 32)]
        for sampler, steps, batch in (*drawn, ("locked", 32, many)):
            self.part(f"samples {sampler}", 25, self.samples, sampler, steps, batch)


def ended(*_):
    raise TimeoutError("it took twice its time")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seconds", type=float, default=330)
    with tempfile.TemporaryDirectory() as work:
        Run(parser.parse_args(), Path(work)).all()


if __name__ == "__main__":
    main()
