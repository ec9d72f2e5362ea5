"""Run the whole chain on a laptop: teacher, judge, five rounds of MCD, comparison.

Training runs as a user would run it, through the minihost's command line; what was
trained is measured by `sweep` and shown by `report`. Every stage leaves its result on
disk and is skipped when that is there, so the same command goes on after an
interruption.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from .. import __version__, configs_dir
from ..checkpoints.files import (
    check_overwrite,
    lacks,
    make_folder,
    newest_checkpoint,
    read_json,
    write_json,
)
from ..coupling import counter_generator
from ..errors import ConfigError, MCDError
from ..evaluation import report
from ..evaluation.candidates import Source
from ..evaluation.plan import Plan, grid
from . import demo_tables, sweep

MINIHOST = "mdlm_mcd.minihost.main"
BATCH = 96  # samples and rows at a time
STAGES = ("judge", "teacher", "mcd", "sample")
Tick = Callable[..., None]


class StageError(MCDError, RuntimeError):
    """A part of the demo that did not finish."""


@dataclass(frozen=True)
class Recipe:
    """What the demo does; `seconds` are what the stages took on two CPU cores."""

    name: str = "laptop"
    steps: tuple[int, ...] = (4, 8, 16, 32, 64, 128)
    samples: int = 96
    bound_rows: int = 64  # of held-out text, for the N-step NELBO
    text_rows: int = 512  # of it, for everything else
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
    """Return the laptop's recipe, or one of a minute that only shows that all parts run."""
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


def noise(seed: int, what: str, *counters: int):
    """Return the sweep's noise but for draws, whose batch is one: the same for every model."""
    return counter_generator(
        seed, *(("demo", counters[0]) if what == "sweep" else (what, *counters))
    )


def minihost(overrides: Sequence[str], log: Path, on_line: Callable[[str], None]) -> int:
    """Run the minihost's command line, its output appended to `log`; its exit status.

    on_line(text) sees each line as it comes. The child goes when we go: it is
    interrupted with us and otherwise terminated.
    """
    command = [sys.executable, "-m", MINIHOST, *overrides]
    with log.open("a", encoding="utf-8") as file:
        file.write("$ " + " ".join(command[1:]) + "\n")
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            for line in process.stdout:
                file.write(line)
                file.flush()
                on_line(line)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()
    return process.returncode


class Demo:
    """One demo in one folder."""

    def __init__(self, out: Path, seed: int, recipe: Recipe, console: Console):
        self.out, self.seed, self.recipe, self.console = out, seed, recipe, console
        self.log = out / "log.txt"

    def train(self, stage: str, algo: str, steps: int, *overrides: str, tick: Tick) -> Path:
        """Run one training to its end, from wherever it stands; return its checkpoint."""
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
        lines: list[str] = []

        def on_line(line: str) -> None:
            lines.append(line)
            if found := re.match(r"step (\d+)/(\d+)", line):
                tick(int(found[1]), int(found[2]))

        status = minihost(
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
            raise StageError(
                f"The demo's {stage} stopped at step {step} of {steps} (exit status "
                f"{status}; log: {self.log}). It said: {''.join(lines[-5:]).strip()}"
            )
        return last

    def measure(self, judge: Path, teacher: Path, tick: Tick) -> list[dict[str, Any]]:
        """Sweep over the teacher, also sharpened, and the rounds; return all rows."""
        recipe, rows = self.recipe, []
        folder, passes = self.out / "mcd" / "checkpoints", sum(recipe.steps)
        students = [
            Source(f"MCD round {k}", str(folder / f"round-{k}.ckpt"))
            for k in range(1, recipe.rounds + 1)
        ]
        for sources, temperatures, before in (
            ([Source("teacher", str(teacher))], (1.0, recipe.temperature), 0),
            (students, (1.0,), 2 * passes),
        ):
            points = grid(recipe.steps, temperatures)
            rows += sweep.measure(
                sources,
                Plan(points, recipe.samples, BATCH, recipe.bound_rows, self.seed),
                self.out / "results.jsonl",
                judge=str(judge),
                rows=recipe.text_rows,
                noise=noise,
                on_point=lambda done, total, what, before=before: tick(
                    before + done, (2 + recipe.rounds) * passes
                ),
            )
        return rows

    def settings(self) -> dict:
        return {"recipe": asdict(self.recipe), "seed": self.seed}

    def claim(self) -> None:
        """Refuse a folder of other things or settings, and a seed of none."""
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"--seed {self.seed}: give a whole number from 0 to 2^32 - 1.")
        check_overwrite(f"--out {make_folder(self.out)}", self.out, lacks("demo.json"))
        path = self.out / "demo.json"
        mine = json.loads(json.dumps({**self.settings(), "version": __version__}))
        found = read_json(path, None)
        if found is None:
            write_json(path, mine)
        elif found != mine:
            found = found if isinstance(found, dict) else {}
            differ = sorted(k for k in mine if found.get(k) != mine[k])
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
        with sweep.bars(self.console, 28) as progress:
            task = progress.add_task("", total=expected)

            def stage(name: str, description: str) -> Tick:
                before = sum(recipe.seconds[k] for k in STAGES[: STAGES.index(name)])

                def tick(done: float, total: float) -> None:
                    progress.update(
                        task,
                        description=description,
                        completed=before + recipe.seconds[name] * done / total,
                    )

                return tick

            judge = self.train(
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
            rows = self.measure(judge, teacher, stage("sample", "sampling"))
        results = {**self.settings(), **demo_tables.results(rows)}
        self.report(results)
        return results

    def report(self, results: dict) -> None:
        self.console.print(demo_tables.table(results))
        self.console.print(demo_tables.reading(results), markup=False)
        write_json(self.out / "results.json", results)
        (self.out / "table.md").write_text(demo_tables.markdown(results), "utf-8")
        (self.out / "samples.txt").write_text(demo_tables.samples(results), "utf-8")
        demo_tables.perplexity_vs_steps(results, self.out / "perplexity_vs_steps.png")
        report.write(
            [self.out / "results.jsonl"],
            self.out / "report.html",
            reference="teacher",
            title="MCD on a laptop",
        )
        self.console.print(
            "Wrote report.html, table.md, perplexity_vs_steps.png, samples.txt, results.json "
            f"and results.jsonl to {self.out}."
        )


def run(out: Path, *, seed: int = 1, recipe: Recipe | None = None, console=None):
    """Make the demo in folder `out`; return what `results.json` holds.

    Raises ConfigError for a folder that cannot be used and StageError when a
    training does not finish.
    """
    demo_tables.require_matplotlib()  # before the work, not after it
    return Demo(out.resolve(), seed, recipe or Recipe(), console or Console()).run()
