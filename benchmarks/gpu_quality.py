"""MCD against its controls at 12 layers, on the text at hand, slice by slice.

    bash benchmarks/gpu_quality.sh              # until everything stands
    python benchmarks/gpu_quality.py --slice 7  # one slice of seven minutes

The comparison of `benchmarks/quality.py` at a size that wants a GPU: evaluator and
teacher, MCD, SDTT and subset consistency from it, the teacher trained on at the same
budget, and the teacher over temperatures; each sampled under independent masks and a
lattice. Text is the standard library's, or files. A slice stops by itself before its
time is over, after a checkpoint, and ends with status 3; status 0: the report stands.

Everything goes to OUT/HARDWARE, named after the device, with a results file of its own.
No figure of it has been measured yet.
"""

from __future__ import annotations

import argparse
import glob
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from paper.stages import COMMAND, OutOfTime, StageError, Stages, claim, override, start

from mdlm_mcd.checkpoints.files import make_folder
from mdlm_mcd.errors import ConfigError, MCDError
from mdlm_mcd.evaluation.sweep import existing

UNFINISHED = 3  # exit status: a slice is over, the same command goes on
STARTING = 30.0  # seconds that a stage takes before its first and after its last step


@dataclass(frozen=True)
class Recipe:
    """Sizes of one comparison; `overrides` are every training's."""

    length: int = 512
    vocab_size: int = 8192
    batch: int = 64
    micro_batch: int = 32
    # The standard library's text is some 1.5M tokens: the best checkpoint by held-out
    # likelihood is taken, since both pass over it many times.
    judge_steps: int = 1_000
    teacher_steps: int = 10_000
    validate_every: int = 250
    rounds: int = 5
    steps_per_round: int = 1_000
    steps: tuple[int, ...] = (4, 8, 16, 32, 64, 128)
    temperatures: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    laws: tuple[str, ...] = ("iid", "lattice")
    samples: int = 256
    bound_rows: int = 64
    checkpoint_every: int = 250
    overrides: tuple[str, ...] = ("model=small",)

    def check(self) -> None:
        if self.length < 3 or self.micro_batch < 1 or self.batch % self.micro_batch:
            raise ConfigError(
                f"--length {self.length} must be at least 3, and --micro-batch "
                f"{self.micro_batch} divide the batch of {self.batch}."
            )


SMOKE = Recipe(
    length=16,
    vocab_size=300,
    batch=8,
    micro_batch=8,
    judge_steps=2,
    teacher_steps=6,
    validate_every=2,
    rounds=2,
    steps_per_round=2,
    steps=(2, 4),
    temperatures=(0.8, 1.0),
    samples=2,
    bound_rows=2,
    checkpoint_every=2,
    overrides=(
        "model=laptop",
        "model.hidden_size=32",
        "model.n_blocks=1",
        "model.n_heads=2",
        "model.cond_dim=16",
        "data.max_chars=60000",
        "trainer.limit_val_batches=1",
    ),
)


@dataclass
class Clock:
    """What is left of a slice; `minutes` None: there is no end."""

    minutes: float | None
    began: float = field(default_factory=time.monotonic)

    def left(self) -> float | None:
        """Seconds for a stage. Raises OutOfTime when one would not get to work."""
        if self.minutes is None:
            return None
        left = 60 * self.minutes - (time.monotonic() - self.began) - 2 * STARTING
        if left < STARTING:
            raise OutOfTime("The slice is over.")
        return left


DISTILLED = {"mcd": "MCD", "sdtt": "SDTT", "cd4lm": "Subset consistency"}


class Quality:
    """All stages of one recipe in one folder."""

    def __init__(
        self,
        out: Path,
        recipe: Recipe,
        *,
        device: str = "cuda",
        seed: int = 1,
        data: tuple[str, ...] = (),
        minutes: float | None = None,
        start=start,
        say=print,
    ):
        recipe.check()
        self.recipe, self.device, self.seed, self.data = recipe, device, seed, data
        self.out = make_folder(out) / hardware(device)
        claim(
            self.out,
            {
                "hardware": hardware(device),
                "recipe": repr(recipe),
                "seed": seed,
                "data": list(data),
            },
        )
        self.stages = Stages(self.out, start, say)
        self.clock, self.say = Clock(minutes), say

    def overrides(self, algo: str, steps: int) -> list[str]:
        """What every training is given."""
        recipe = self.recipe
        text = [override("data.files", self.data)] if self.data else []
        return [
            f"algo={algo}",
            f"data={'textfile' if self.data else 'stdlib'}",
            *text,
            *recipe.overrides,
            f"model.length={recipe.length}",
            f"data.vocab_size={recipe.vocab_size}",
            override("data.cache_dir", self.out / "cache"),
            f"loader.global_batch_size={recipe.batch}",
            f"loader.batch_size={recipe.micro_batch}",
            f"trainer.accelerator={'cpu' if self.device == 'cpu' else 'gpu'}",
            "trainer.devices=1",
            "trainer.val_check_interval="
            f"{recipe.validate_every * recipe.batch // recipe.micro_batch}",
            "callbacks=[checkpoint_every_n_steps,checkpoint_monitor,lines]",
            f"callbacks.checkpoint_every_n_steps.every_n_train_steps={recipe.checkpoint_every}",
            "+trainer.enable_progress_bar=false",
            "+trainer.enable_model_summary=false",
            f"lr_scheduler.num_warmup_steps={max(1, steps // 50)}",
            f"seed={self.seed}",
        ]

    def train(self, name: str, overrides: list[str], steps: int, target="last.ckpt"):
        return self.stages.train(
            name,
            self.out / "runs" / name,
            overrides,
            steps,
            target=target,
            seconds=self.clock.left(),
        )

    def pretrain(self, name: str, algo: str, steps: int) -> Path:
        """Evaluator or teacher, from random weights."""
        rest = ["lr_scheduler=cosine_decay_warmup", "optim.lr=6e-4", "training.ema=0.999"]
        low = ["algo.loss_type=low_var"] if algo == "mdlm" else []
        overrides = [*rest, *self.overrides(algo, steps), *low]
        return self.train(name, overrides, steps, target="best.ckpt")

    def distilled(self, algo: str, label: str, teacher: Path) -> dict[str, Path]:
        """The students of each round, by row."""
        recipe = self.recipe
        rounds, each = recipe.rounds, recipe.steps_per_round
        if algo == "cd4lm":
            rounds, each = 1, rounds * each
        gap = [] if algo == "cd4lm" else [f"algo.delta0={4 / recipe.length}"]
        self.train(
            algo,
            [
                *self.budget(algo),
                *gap,
                override("algo.teacher_path", teacher),
                f"algo.rounds={rounds}",
                f"algo.steps_per_round={each}",
            ],
            rounds * each,
            target=f"round-{rounds}.ckpt",
        )
        folder = self.out / "runs" / algo / "checkpoints"
        return {f"{label} round {k}": folder / f"round-{k}.ckpt" for k in range(1, rounds + 1)}

    def budget(self, algo: str) -> list[str]:
        """Optimizer, batch and length that distillers and further training share."""
        steps = self.recipe.rounds * self.recipe.steps_per_round
        return ["optim.lr=1e-4", "training.ema=0.99", *self.overrides(algo, steps)]

    def continued(self, teacher: Path) -> Path:
        """The teacher trained on, at the distillers' budget: what drift alone does."""
        steps = self.recipe.rounds * self.recipe.steps_per_round
        start = [override("training.finetune_path", teacher)]
        return self.train("continued", [*self.budget("mdlm"), *start], steps)

    def sweep(self, rows: dict[str, Path], judge: Path, temperatures) -> None:
        """One child for each number of steps: its lattice is the step's own."""
        recipe = self.recipe
        for n in recipe.steps:
            laws = [f"{x}:1/{n}" if x == "lattice" else x for x in recipe.laws]
            points = {(t, law) for t in temperatures for law in recipe.laws}
            left = [name for name in rows if points - self.measured(name, n)]
            if not left:
                continue
            self.say(f"sampling: {len(left)} models at {n} steps")
            before = len(existing(self.results))
            status, said = self.stages.call(
                "sweep",
                COMMAND,
                [
                    "sweep",
                    *(f"{name}={rows[name]}" for name in left),
                    "--steps",
                    f"{n}",
                    "--temperature",
                    ",".join(map(str, temperatures)),
                    "--u-law",
                    *laws,
                    "--num-samples",
                    f"{recipe.samples}",
                    "--bound-rows",
                    f"{recipe.bound_rows}",
                    "--seed",
                    f"{self.seed}",
                    "--batch-size",
                    f"{min(64, recipe.samples)}",
                    "--evaluator",
                    f"{judge}",
                    "--device",
                    self.device,
                    "--out",
                    f"{self.results}",
                ],
                seconds=self.clock.left(),
            )
            if status is None:
                self.stuck(len(existing(self.results)) - before)
                raise OutOfTime(f"Sampling stands at {n} steps.")
            if status != 0:
                raise self.stages.failed("sweep", status, said)

    def measured(self, name: str, steps: int) -> set[tuple[float, str]]:
        """(temperature, law) of a model's rows at hand."""
        return {
            (row["temperature"], row["u_law"])
            for row in existing(self.results)
            if (row["model"], row["steps"]) == (name, steps)
        }

    def stuck(self, rows: int) -> None:
        """A slice that began with sampling and measured nothing would begin for ever.

        Raises StageError.
        """
        if rows == 0 and not self.stages.trained:
            raise StageError(
                f"--slice {self.clock.minutes:g} is too short for one point of "
                f"{self.recipe.samples} samples: give it more minutes, or take fewer "
                "--samples in another --out."
            )

    @property
    def results(self) -> Path:
        return self.out / "results.jsonl"

    def run(self) -> Path:
        """Everything, from wherever it stands: the report. Raises OutOfTime."""
        recipe = self.recipe
        judge = self.pretrain("judge", "ar", recipe.judge_steps)
        teacher = self.pretrain("teacher", "mdlm", recipe.teacher_steps)
        students = {"continued": self.continued(teacher)}
        for algo, label in DISTILLED.items():
            students |= self.distilled(algo, label, teacher)
        self.sweep({"teacher": teacher}, judge, recipe.temperatures)
        self.sweep(students, judge, (1.0,))
        page = self.out / "report.html"
        self.stages.must(
            "report",
            COMMAND,
            [
                "report",
                f"{self.results}",
                "--reference",
                "teacher",
                "--out",
                f"{page}",
                "--title",
                f"MCD and its controls on {self.out.name}",
            ],
        )
        return page


def hardware(device: str) -> str:
    """A folder's name for a device. Raises ConfigError for a GPU that is not there."""
    if device == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise ConfigError(
            f"--device {device}: no CUDA device is there; `--device cpu` would take "
            "days at this size, and benchmarks/quality.py is made for CPUs."
        )
    return re.sub(r"[^A-Za-z0-9]+", "-", torch.cuda.get_device_name(device)).strip("-")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="gpu_quality.py", description=__doc__.partition("\n\n")[0])
    p.add_argument("--out", type=Path, default=Path("gpu_quality"), metavar="DIR")
    p.add_argument("--slice", type=float, metavar="MINUTES", help="default: no end")
    p.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="FILE",
        help="UTF-8 text in place of the standard library's",
    )
    p.add_argument("--length", type=int, default=512, help="512 or 1024")
    p.add_argument("--micro-batch", type=int, default=32, help="what memory takes")
    p.add_argument("--samples", type=int, default=256, help="of each point")
    p.add_argument("--device", default="cuda")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--smoke", action="store_true", help="tiny; figures mean nothing")
    return p


def main(argv=None, start=start) -> int:
    args = parser().parse_args(argv)
    try:
        if args.slice is not None and args.slice * 60 <= 3 * STARTING:
            raise ConfigError(
                f"--slice {args.slice:g} is used up by starting and ending: give at "
                f"least {3 * STARTING / 60 + 0.5:g} minutes."
            )
        missing = [path for path in args.data if not glob.glob(path)]
        if missing:
            raise ConfigError(f"--data {missing[0]} is not there: name text files.")
        recipe = (
            SMOKE
            if args.smoke
            else Recipe(length=args.length, micro_batch=args.micro_batch, samples=args.samples)
        )
        page = Quality(
            args.out,
            recipe,
            device=args.device,
            seed=args.seed,
            data=tuple(str(Path(path).absolute()) for path in args.data),
            minutes=args.slice,
            start=start,
        ).run()
    except OutOfTime as said:
        print(f"gpu_quality: {said} The same command goes on.")
        return UNFINISHED
    except MCDError as error:
        print(f"gpu_quality: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ngpu_quality: interrupted; the same command goes on.", file=sys.stderr)
        return 130
    print(f"Wrote {page}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
