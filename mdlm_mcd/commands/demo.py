"""The whole chain on a laptop: teacher, judge, five rounds of MCD, comparison.

Training runs as a user would run it, through the minihost's command line; sampling
and the report happen here. Every stage leaves its result on disk and is skipped
when that is there, so the same command goes on after an interruption.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .. import __version__, configs_dir, sampling
from ..checkpoints.files import (
    check_overwrite,
    lacks,
    make_folder,
    newest_checkpoint,
    read_json,
    sha256,
    write_json,
)
from ..coupling import counter_generator
from ..errors import ConfigError, MCDError
from ..evaluation import embedded, metrics, report
from . import demo_tables
from .sweep import machine, versions

SAMPLING_DTYPE = torch.float64


class StageError(MCDError, RuntimeError):
    """A part of the demo that did not finish."""


@dataclass(frozen=True)
class Recipe:
    """What the demo does; `seconds` are what the stages took on two CPU cores."""

    name: str = "laptop"
    steps: tuple[int, ...] = (4, 8, 16, 32, 64, 128)
    samples: int = 96
    bound_rows: int = 64  # of held-out text, for the N-step NELBO
    temperature: float = 0.8  # of the control: the teacher, only sharper
    overrides: tuple[str, ...] = ()
    judge_steps: int = 600
    teacher_steps: int = 3400
    rounds: int = 5
    steps_per_round: int = 100
    seconds: dict[str, float] = field(
        default_factory=lambda: {"judge": 90, "teacher": 345, "mcd": 100, "sample": 240}
    )


def recipe(quick: bool = False) -> Recipe:
    """The laptop's recipe, or one of a minute that only shows that all parts run."""
    if not quick:
        return Recipe()
    return Recipe(
        name="quick",
        steps=(4, 8),
        samples=8,
        overrides=(
            "data.max_chars=300000",
            "data.vocab_size=512",
            "model.hidden_size=32",
            "model.n_blocks=2",
            "model.n_heads=2",
            "model.length=32",
            "loader.global_batch_size=16",
            "trainer.limit_val_batches=2",
        ),
        judge_steps=20,
        teacher_steps=30,
        rounds=2,
        steps_per_round=10,
        seconds={"judge": 12, "teacher": 12, "mcd": 12, "sample": 4},
    )


class Demo:
    """One demo in one folder."""

    def __init__(self, out: Path, seed: int, recipe: Recipe, console: Console):
        self.out, self.seed, self.recipe, self.console = out, seed, recipe, console
        self.log = out / "log.txt"
        self.rounds = [f"MCD round {k + 1}" for k in range(recipe.rounds)]

    # Training, through the host's own command line --------------------------------

    def train(self, stage: str, algo: str, steps: int, *overrides: str, tick) -> Path:
        """Run one training to its end, from wherever it stands; its checkpoint."""
        folder = self.out / stage
        last, step = newest_checkpoint(folder / "checkpoints")
        if step >= steps:
            tick(steps, steps)
            return last
        where = [
            f"checkpointing.resume_ckpt_path={last}"
            if last
            else "checkpointing.resume_from_ckpt=false"
        ]
        said: list[str] = []

        def on_line(line: str) -> None:
            said.append(line)
            if found := re.match(r"step (\d+)/(\d+)", line):
                tick(int(found[1]), int(found[2]))

        status = embedded.run(
            [
                f"algo={algo}",
                f"hydra.run.dir={folder}",
                f"hydra.searchpath=[file://{configs_dir()}]",
                "callbacks=[checkpoint_every_n_steps,lines]",
                # Its figures are compared across machines, so are its devices.
                "trainer.accelerator=cpu",
                "trainer.devices=1",
                "+trainer.enable_model_summary=false",
                *overrides,
                *self.recipe.overrides,
                f"trainer.max_steps={steps}",
                f"seed={self.seed}",
                *where,
            ],
            self.log,
            on_line,
        )
        last, step = newest_checkpoint(folder / "checkpoints")
        if status != 0 or step < steps:
            shown = "".join(said[-5:]).strip()
            raise StageError(
                f"The demo's {stage} stopped at step {step} of {steps} (exit status "
                f"{status}; log: {self.log}). It said: {shown}"
            )
        return last

    # Sampling ---------------------------------------------------------------------

    def checkpoints(self) -> dict[str, tuple[Path, float]]:
        """Who is sampled, from which file, at which temperature."""
        teacher, _ = newest_checkpoint(self.out / "teacher" / "checkpoints")
        rows = {
            "teacher": (teacher, 1.0),
            f"teacher, T = {self.recipe.temperature:g}": (teacher, self.recipe.temperature),
        }
        for k, name in enumerate(self.rounds):
            path = self.out / "mcd" / "checkpoints" / f"round-{k + 1}.ckpt"
            rows[name] = (path, 1.0)
        return rows

    def compare(self, tick) -> dict:
        """Sample and judge every row at every number of steps; resumes cell by cell."""
        path, settings = self.out / "cells.json", self.settings()
        cells = read_json(path, {})
        judge_model, tokenizer = embedded.open_model(
            newest_checkpoint(self.out / "judge" / "checkpoints")[0]
        )
        judge = embedded.judge(judge_model)
        held_out = embedded.validation_tokens(judge_model, tokenizer, 512)
        ppl, error = metrics.perplexity(held_out, judge)
        corpus = {
            "perplexity": ppl,
            "perplexity_error": error,
            "entropy": float(metrics.sample_entropy(held_out).mean()),
            "pooled_entropy": metrics.corpus_entropy(held_out[: self.recipe.samples]),
        }
        done, total = 0, len(self.checkpoints()) * sum(self.recipe.steps)
        for name, (checkpoint, temperature) in self.checkpoints().items():
            model = None
            for steps in self.recipe.steps:
                key = f"{name} @ {steps}"
                if "correlation" not in cells.get(key, {}):  # nor of an older version
                    if model is None:
                        model, _ = embedded.open_model(checkpoint)
                    cells[key] = self.cell(model, tokenizer, judge, steps, temperature)
                    cells[key]["n_step_nelbo"] = self.n_step_nelbo(
                        model, held_out, steps, temperature
                    )
                    if "nelbo" not in cells.get(name, {}):
                        value = self.nelbo(model, held_out, temperature)
                        cells[name] = {"nelbo": value}
                    write_json(path, cells)
                done += steps
                tick(done, total)
        return {
            **settings,
            "versions": versions(),
            "machine": machine("cpu"),
            "sampling": {
                "sampler": "sparse",
                "dtype": str(SAMPLING_DTYPE).removeprefix("torch."),
                "samples": self.recipe.samples,
                "length": int(held_out.shape[1]),
                "judge": "AR model of the minihost, trained on the training split",
            },
            "corpus": corpus,
            "models": {
                name: {
                    "checkpoint": path.name,
                    "sha256": sha256(path),
                    "temperature": temperature,
                    "nelbo": cells[name]["nelbo"],
                    "steps": {str(n): cells[f"{name} @ {n}"] for n in self.recipe.steps},
                }
                for name, (path, temperature) in self.checkpoints().items()
            },
        }

    def nelbo(self, model, tokens, temperature: float) -> float:
        return metrics.nelbo(
            embedded.denoiser(model),
            model.noise,
            tokens,
            model.mask_index,
            generator=counter_generator(self.seed, "nelbo"),
            temperature=temperature,
        )

    def n_step_nelbo(self, model, tokens, steps: int, temperature: float) -> dict:
        scores = metrics.n_step_nelbo(
            embedded.denoiser(model),
            tokens[: self.recipe.bound_rows],
            steps,
            alpha=lambda t: model.noise(t)[1],
            mask_index=model.mask_index,
            generator=counter_generator(self.seed, "n-step", steps),
            temperature=temperature,
        )
        return scores.estimate(seed=self.seed)._asdict()

    def cell(self, model, tokenizer, judge, steps: int, temperature: float) -> dict:
        start = time.perf_counter()
        drawn = sampling.sample(
            "sparse",
            embedded.denoiser(model),
            self.recipe.samples,
            model.num_tokens,
            steps,
            alpha=lambda t: model.noise(t)[1],
            mask_index=model.mask_index,
            vocab_size=model.vocab_size,
            # The same noise for every row of a column: differences are the models'.
            generator=counter_generator(self.seed, "demo", steps),
            dtype=SAMPLING_DTYPE,
            temperature=temperature,
        )
        seconds = time.perf_counter() - start
        ppl, error = metrics.perplexity(drawn.tokens, judge)
        entropies = metrics.sample_entropy(drawn.tokens)
        scores = metrics.CallableEvaluator(judge, "judge").nll(drawn.tokens)
        return {
            "perplexity": ppl,
            "perplexity_error": error,
            "entropy": float(entropies.mean()),
            "entropy_error": float(entropies.std() / len(entropies) ** 0.5),
            "correlation": metrics.correlation(scores, entropies),
            "pooled_entropy": metrics.corpus_entropy(drawn.tokens),
            "evaluations": drawn.evaluations,
            "seconds": seconds,
            "texts": tokenizer.batch_decode(drawn.tokens[:2]),
        }

    # Results ----------------------------------------------------------------------

    def settings(self) -> dict:
        return {"recipe": asdict(self.recipe), "seed": self.seed}

    def claim(self) -> None:
        """Refuse a folder of other things or settings, and a seed of none."""
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"--seed {self.seed}: give a whole number from 0 to 2^32 - 1.")
        check_overwrite(f"--out {make_folder(self.out)}", self.out, lacks("demo.json"))
        path = self.out / "demo.json"
        mine = json.loads(json.dumps({**self.settings(), "version": __version__}))
        held = read_json(path, None)
        if held is None:
            write_json(path, mine)
        elif held != mine:
            held = held if isinstance(held, dict) else {}
            differ = sorted(k for k in mine if held.get(k) != mine[k])
            raise ConfigError(
                f"--out {self.out} holds a demo with another {', '.join(differ)}: name "
                "another folder, or delete this one."
            )

    def run(self) -> dict:
        self.claim()
        recipe = self.recipe
        expected = sum(recipe.seconds.values())
        self.console.print(
            f"About {max(1, round(expected / 60))} min on two CPU cores. Everything "
            f"goes to {self.out}; the same command goes on after an interruption."
        )
        with Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
        ) as progress:
            whole = progress.add_task("whole demo", total=expected)
            spent = 0.0

            def stage(name: str, description: str):
                task = progress.add_task(description, total=1.0)
                nonlocal spent
                before, spent = spent, spent + recipe.seconds[name]

                def tick(done: int, total: int) -> None:
                    progress.update(task, completed=done / total)
                    progress.update(whole, completed=before + recipe.seconds[name] * done / total)

                return tick

            self.train(
                "judge",
                "ar",
                recipe.judge_steps,
                "+recipe=laptop_judge",
                tick=stage("judge", "evaluator (AR)"),
            )
            teacher = self.train(
                "teacher",
                "mdlm",
                recipe.teacher_steps,
                "+recipe=laptop_teacher",
                tick=stage("teacher", "teacher (MDLM)"),
            )
            self.train(
                "mcd",
                "mcd",
                recipe.rounds * recipe.steps_per_round,
                "+recipe=mcd_laptop",
                f"algo.teacher_path={teacher}",
                f"algo.rounds={recipe.rounds}",
                f"algo.steps_per_round={recipe.steps_per_round}",
                tick=stage("mcd", f"MCD, {recipe.rounds} rounds"),
            )
            results = self.compare(stage("sample", "sampling"))
            progress.update(whole, completed=expected)
        self.report(results)
        return results

    def report(self, results: dict) -> None:
        self.console.print(demo_tables.table(results))
        self.console.print(demo_tables.reading(results), markup=False)
        write_json(self.out / "results.json", results)
        (self.out / "table.md").write_text(demo_tables.markdown(results), "utf-8")
        (self.out / "samples.txt").write_text(demo_tables.samples(results), "utf-8")
        demo_tables.perplexity_vs_steps(results, self.out / "perplexity_vs_steps.png")
        lines = (json.dumps(row, ensure_ascii=False) for row in demo_tables.rows(results))
        path = self.out / "results.jsonl"
        path.write_text("\n".join(lines) + "\n", "utf-8")
        title = "MCD on a laptop"
        report.write([path], self.out / "report.html", reference="teacher", title=title)
        names = (
            "report.html, table.md, perplexity_vs_steps.png, samples.txt, results.json "
            "and results.jsonl"
        )
        self.console.print(f"Wrote {names} to {self.out}.")


def run(out: Path, *, seed: int = 1, recipe: Recipe | None = None, console=None):
    """The demo into folder `out`; answers what `results.json` holds.

    Raises ConfigError for a folder that cannot be used and StageError when a
    training does not finish.
    """
    demo_tables.require_matplotlib()  # before the work, not after it
    console = console or Console()
    return Demo(out.resolve(), seed, recipe or Recipe(), console).run()
