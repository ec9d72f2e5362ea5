"""Measure a machine: ceilings, training steps, samples.

    python benchmarks/gpu/run.py --out DIR [--device cuda] [--tiny] [--seconds 330]

One line of JSON a figure in DIR/figures.jsonl, written as it is measured. A part that
fails is a line too, so is one that takes twice its time and is ended, and a part that no
longer fits into --seconds is left out. Sizes:
the 169M DiT, 1,024 tokens, a vocabulary of 50,258, random weights and text. With
--device cpu --tiny it takes seconds, and shows only that all parts run.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import hydra
import lightning as L
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from mdlm_mcd import sampling
from mdlm_mcd.hosts import duo
from mdlm_mcd.minihost import dataloader
from mdlm_mcd.minihost import main as entry

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
TESTS = Path(__file__).parents[2] / "tests" / "test_gpu.py"
TINY = "model=laptop model.hidden_size=32 model.n_blocks=2 model.n_heads=2 model.cond_dim=16"


class Enough(Exception):
    """Ends a fit after the steps that were to be timed."""


class Clock(L.Callback):
    """Times each step between two synchronisations, in milliseconds.

    In one more step it counts how often the program waits for the device.
    """

    def __init__(self, steps: int, sync):
        self.steps, self.sync, self.times, self.waits = steps, sync, [], None

    def on_train_batch_start(self, *args):
        if len(self.times) == self.steps:
            self.caught = warnings.catch_warnings(record=True)
            self.found = self.caught.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        self.sync()
        self.start = time.perf_counter()

    def on_train_batch_end(self, *args):
        if len(self.times) == self.steps:
            torch.cuda.set_sync_debug_mode("default")
            self.caught.__exit__(None, None, None)
            self.waits = sum("synchroniz" in str(w.message) for w in self.found)
            raise Enough
        self.sync()
        self.times.append(1e3 * (time.perf_counter() - self.start))
        if len(self.times) == self.steps and not torch.cuda.is_available():
            raise Enough


class Run:
    """The parts of one run and the file of its figures."""

    def __init__(self, args, work: Path):
        self.args, self.work, self.start = args, work, time.monotonic()
        self.cuda = args.device == "cuda"
        self.vocab = 300 if args.tiny else 50_257
        self.batch, self.length = (4, 32) if args.tiny else (32, 1024)
        args.out.mkdir(parents=True, exist_ok=True)

    def write(self, **row):
        row["at"] = round(time.monotonic() - self.start, 1)
        with (self.args.out / "figures.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)

    def sync(self):
        if self.cuda:
            torch.cuda.synchronize()

    def part(self, name: str, seconds: float, run, *args):
        """Run one part if `seconds` are left, at most twice as long; an error becomes a line."""
        if self.args.seconds - (time.monotonic() - self.start) < seconds:
            return self.write(part=name, left_out=True)
        if self.cuda:
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
        if self.cuda:
            command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", str(TESTS)]
            done = subprocess.run(command, capture_output=True, text=True)
            self.write(part="tests", status=done.returncode, end=done.stdout[-1500:])

    def peak(self):
        return self.cuda and round(torch.cuda.max_memory_allocated() / 2**30, 2)

    def ceilings(self):
        if not self.cuda:
            return self.write(part="ceilings", torch=torch.__version__)
        x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
        a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
        b = torch.empty_like(a)
        rates = {}
        for name, call, work in (
            ("tflops", lambda: x @ x, 2 * 8192**3),
            ("tb_s", lambda: b.copy_(a), 2 * 2**30),
        ):
            for _ in range(3):
                call()
            self.sync()
            start = time.perf_counter()
            for _ in range(20):
                call()
            self.sync()
            rates[name] = round(20e-12 * work / (time.perf_counter() - start), 2)
        device = torch.cuda.get_device_name()
        self.write(part="ceilings", **rates, device=device, torch=torch.__version__)

    def inputs(self):
        """A word-level tokenizer of the vocabulary's size, and random text."""
        import tokenizers
        import transformers

        words = {f"w{i}": i for i in range(self.vocab)}
        made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
        made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=made, eos_token="w1", bos_token="w2", pad_token="w1"
        ).save_pretrained(self.work / "tokenizer")
        draw = random.Random(0)
        documents = (
            " ".join(f"w{draw.randrange(3, self.vocab)}" for _ in range(self.length))
            for _ in range(15 * self.batch)
        )
        (self.work / "text.txt").write_text("\n\n\n".join(documents), "utf-8")

    def config(self, algo: str, *more: str):
        GlobalHydra.instance().clear()
        given = f"""
            algo={algo} data=textfile data.files=[{self.work}/text.txt]
            data.tokenizer_name_or_path={self.work}/tokenizer data.cache_dir={self.work}/cache
            {TINY if self.args.tiny else "model=small"} model.length={self.length}
            loader.global_batch_size={self.batch} checkpointing.save_dir={self.work}/run
            trainer.devices=1 trainer.max_steps=100
        """.split()
        if algo != "mdlm":
            own = "algo.init_from=scratch algo.rounds=1 algo.steps_per_round=100 algo.guard=off"
            given += own.split()
        given += more
        if self.args.tiny:  # a small vocabulary needs more noise; two blocks have no fourth
            own = {"dcd": "algo.gamma_max=2", "mmd": "algo.feature_block=0"}
            given += filter(None, [own.get(algo)])
        with hydra.initialize_config_module("mdlm_mcd.minihost.configs", version_base=None):
            config = hydra.compose("config", overrides=given)
        OmegaConf.set_struct(config, True)
        return config

    def model(self, algo: str, *more: str):
        config = self.config(algo, *more)
        torch.manual_seed(0)
        tokenizer = dataloader.get_tokenizer(config)
        return entry.model_class(config)(config, tokenizer), config, tokenizer

    def step(self, algo: str, *more: str):
        model, config, tokenizer = self.model(algo, *more)
        rows, _ = dataloader.get_dataloaders(config, tokenizer, skip_valid=True)
        clock = Clock(13, self.sync)
        trainer = L.Trainer(
            accelerator="gpu" if self.cuda else "cpu",
            devices=1,
            max_steps=100,
            precision="bf16-mixed" if self.cuda else "32-true",
            callbacks=[clock],
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        try:
            trainer.fit(model, rows)
        except Enough:
            pass
        ms = sorted(clock.times[3:])
        self.write(
            part="step",
            algo=" ".join((algo, *more)),
            waits=clock.waits,
            batch=self.batch,
            length=self.length,
            ms=round(ms[len(ms) // 2], 1),
            low=round(ms[0], 1),
            high=round(ms[-1], 1),
            tokens_s=round(1e3 * self.batch * self.length / ms[len(ms) // 2]),
            parameters=sum(p.numel() for p in model.backbone.parameters()),
            precision=str(trainer.precision),
            peak_gib=self.peak(),
        )

    def samples(self, sampler: str, steps: int, batch: int):
        model, _, _ = self.model("mdlm")
        for p in model.parameters():  # away from the zero start of the last layer
            torch.nn.init.normal_(p, std=0.02)
        denoise = duo.denoiser(model.to(self.args.device).eval())
        for _ in range(2):  # the second counts
            self.sync()
            start = time.perf_counter()
            drawn = sampling.sample(
                sampler,
                denoise,
                batch,
                self.length,
                steps,
                alpha=lambda t: 1 - t,
                mask_index=model.mask_index,
                vocab_size=model.vocab_size,
                generator=torch.Generator(self.args.device).manual_seed(1),
            )
            self.sync()
            seconds = time.perf_counter() - start
        self.write(
            part="samples",
            sampler=sampler,
            steps=steps,
            batch=batch,
            dtype="float64",
            samples_s=round(batch / seconds, 2),
            evaluations=drawn.evaluations,
            peak_gib=self.peak(),
        )

    def all(self):
        self.part("ceilings", 10, self.ceilings)
        self.inputs()
        # Compiling takes longer than all that is tiny.
        for how in dict.fromkeys((algo,) for algo, *_ in STEPS) if self.args.tiny else STEPS:
            self.part(f"step {' '.join(how)}", 25, self.step, *how)
        few, many = (2, 2) if self.args.tiny else (8, 64)
        drawn = [("sparse", n, many) for n in (8, 32, 128)]
        drawn += [("ancestral", n, few) for n in (8, 32)]
        for sampler, steps, batch in (*drawn, ("locked", 32, many)):
            self.part(f"samples {sampler}", 25, self.samples, sampler, steps, batch)
        self.part("tests", 40, self.tests)


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
