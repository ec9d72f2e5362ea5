"""MCD against its controls at 12 layers, on text of the machine, slice by slice.

    bash benchmarks/gpu_quality.sh              # until everything is done
    python benchmarks/gpu_quality.py --slice 7  # one slice of seven minutes

The comparison of `benchmarks/quality.py` at a size that needs a GPU: evaluator and teacher,
MCD, SDTT and subset consistency from it, the teacher trained further at the same budget, and the
teacher over temperatures; each sampled under independent masks and a lattice. Text is the
standard library's, or files. A slice stops by itself before its time is over, after a
checkpoint, and ends with status 3; status 0: the report is written.

Everything goes to OUT/HARDWARE, named after the device, with a results file of its own. No figure
of it has been measured yet.
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
from paper.stages import OutOfTime, StageError, Stages, claim, override, start

from mdlm_mcd.checkpoints.files import make_folder
from mdlm_mcd.errors import ConfigError, MCDError
from mdlm_mcd.evaluation.sweep import existing

UNFINISHED = 3  # exit status: a slice is over, the same command goes on
STARTING = 30.0  # seconds that a stage takes before its first and after its last step
DISTILLED = {"mcd": "MCD", "sdtt": "SDTT", "cd4lm": "Subset consistency"}


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

    @property
    def budget(self) -> int:
        """Optimizer steps of each distillation, and of the teacher trained further."""
        return self.rounds * self.steps_per_round


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
    overrides=tuple(
        "model=laptop model.hidden_size=32 model.n_blocks=1 model.n_heads=2 model.cond_dim=16 "
        "data.max_chars=60000 trainer.limit_val_batches=1".split()
    ),
)


@dataclass
class Clock:
    """The time left of a slice; `minutes` None: there is no end."""

    minutes: float | None
    began: float = field(default_factory=time.monotonic)

    def left(self) -> float | None:
        """Return the seconds for a stage. Raises OutOfTime when they are too few to start."""
        if self.minutes is None:
            return None
        left = 60 * self.minutes - (time.monotonic() - self.began) - 2 * STARTING
        if left < STARTING:
            raise OutOfTime("The slice is over.")
        return left


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
        self.recipe, self.device, self.seed, self.data = recipe, device, seed, data
        name = hardware(device)
        self.out = make_folder(out) / name
        settings = {"recipe": repr(recipe), "seed": seed, "data": list(data)}
        claim(self.out, {"hardware": name, **settings})
        self.results = self.out / "results.jsonl"
        self.stages = Stages(self.out, start, say)
        self.clock, self.say = Clock(minutes), say

    def overrides(self, algo: str, steps: int) -> list[str]:
        """Return what every training is given."""
        recipe, accelerator = self.recipe, "cpu" if self.device == "cpu" else "gpu"
        validate = recipe.validate_every * recipe.batch // recipe.micro_batch
        words = f"""
            algo={algo} data={"textfile" if self.data else "stdlib"} seed={self.seed}
            model.length={recipe.length} data.vocab_size={recipe.vocab_size}
            loader.global_batch_size={recipe.batch} loader.batch_size={recipe.micro_batch}
            lr_scheduler.num_warmup_steps={max(1, steps // 50)}
            trainer.accelerator={accelerator} trainer.devices=1
            trainer.val_check_interval={validate}
            callbacks=[checkpoint_every_n_steps,checkpoint_monitor,lines]
            callbacks.checkpoint_every_n_steps.every_n_train_steps={recipe.checkpoint_every}
            +trainer.enable_progress_bar=false +trainer.enable_model_summary=false
        """
        files = [override("data.files", self.data)] if self.data else []
        cache = override("data.cache_dir", self.out / "cache")
        return [*recipe.overrides, *words.split(), *files, cache]

    def train(self, name: str, overrides: list[str], steps: int, target="last.ckpt"):
        folder, seconds = self.out / "runs" / name, self.clock.left()
        return self.stages.train(name, folder, overrides, steps, target=target, seconds=seconds)

    def pretrain(self, name: str, algo: str, steps: int) -> Path:
        """Train evaluator or teacher from random weights."""
        rest = ["lr_scheduler=cosine_decay_warmup", "optim.lr=6e-4", "training.ema=0.999"]
        low = ["algo.loss_type=low_var"] if algo == "mdlm" else []
        return self.train(name, [*rest, *self.overrides(algo, steps), *low], steps, "best.ckpt")

    def student(self, name: str, algo: str, *overrides: str, target="last.ckpt") -> Path:
        """Train at the optimizer, batch and length that students and `continued` share."""
        steps = self.recipe.budget
        same = ["optim.lr=1e-4", "training.ema=0.99", *self.overrides(algo, steps)]
        return self.train(name, [*same, *overrides], steps, target)

    def distilled(self, algo: str, label: str, teacher: Path) -> dict[str, Path]:
        """Return the student of each round, by row's name."""
        rounds, gap = self.recipe.rounds, [f"algo.delta0={4 / self.recipe.length}"]
        if algo == "cd4lm":
            rounds, gap = 1, []
        last = self.student(
            algo,
            algo,
            *gap,
            override("algo.teacher_path", teacher),
            f"algo.rounds={rounds}",
            f"algo.steps_per_round={self.recipe.budget // rounds}",
            target=f"round-{rounds}.ckpt",
        )
        return {
            f"{label} round {k}": last.with_name(f"round-{k}.ckpt") for k in range(1, rounds + 1)
        }

    def sweep(self, rows: dict[str, Path], judge: Path, temperatures) -> None:
        """Measure each number of steps by itself, since its lattice is the step's own."""
        recipe = self.recipe
        for n in recipe.steps:
            points = {(t, law) for t in temperatures for law in recipe.laws}
            left = {name: rows[name] for name in rows if points - self.measured(name, n)}
            if not left:
                continue
            self.say(f"sampling: {len(left)} models at {n} steps")
            before = len(existing(self.results))
            flags = {
                "--steps": n,
                "--temperature": ",".join(map(str, temperatures)),
                "--u-law": [f"{x}:1/{n}" if x == "lattice" else x for x in recipe.laws],
                "--num-samples": recipe.samples,
                "--bound-rows": recipe.bound_rows,
                "--seed": self.seed,
                "--batch-size": min(64, recipe.samples),
                "--evaluator": judge,
                "--device": self.device,
                "--out": self.results,
            }
            try:
                self.stages.sweep(left, flags, self.clock.left())
            except OutOfTime as error:
                # A slice that began with sampling and measured nothing would begin for ever.
                if len(existing(self.results)) == before and not self.stages.trained:
                    raise StageError(
                        f"--slice {self.clock.minutes:g} is too short for one point of "
                        f"{recipe.samples} samples: give it more minutes, or take fewer "
                        "--samples in another --out."
                    ) from error
                raise OutOfTime(f"Sampling is at {n} steps.") from error

    def measured(self, name: str, steps: int) -> set[tuple[float, str]]:
        """Return (temperature, law) of a model's rows that are measured."""
        return {
            (row["temperature"], row["u_law"])
            for row in existing(self.results)
            if (row["model"], row["steps"]) == (name, steps)
        }

    def run(self) -> Path:
        """Run everything, from wherever it stands; return the report. Raises OutOfTime."""
        recipe = self.recipe
        judge = self.pretrain("judge", "ar", recipe.judge_steps)
        teacher = self.pretrain("teacher", "mdlm", recipe.teacher_steps)
        # What drift alone does: the teacher, at the students' budget.
        further = override("training.finetune_path", teacher)
        students = {"continued": self.student("continued", "mdlm", further)}
        for algo, label in DISTILLED.items():
            students |= self.distilled(algo, label, teacher)
        self.sweep({"teacher": teacher}, judge, recipe.temperatures)
        self.sweep(students, judge, (1.0,))
        return self.stages.report(self.results, f"MCD and its controls on {self.out.name}")


def hardware(device: str) -> str:
    """Return a folder's name for a device. Raises ConfigError for a GPU that is not there."""
    if device == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise ConfigError(
            f"--device {device}: no CUDA device is there; `--device cpu` would take days at this "
            "size, and benchmarks/quality.py is made for CPUs."
        )
    return re.sub(r"[^A-Za-z0-9]+", "-", torch.cuda.get_device_name(device)).strip("-")


def parsed(argv) -> argparse.Namespace:
    """Return the flags, `recipe` among them. Raises ConfigError for impossible ones."""
    p = argparse.ArgumentParser(prog="gpu_quality.py", description=__doc__.partition("\n\n")[0])
    p.add_argument("--out", type=Path, default=Path("gpu_quality"), metavar="DIR")
    p.add_argument("--slice", type=float, metavar="MINUTES", help="default: no end")
    text = "UTF-8 text in place of the standard library's"
    p.add_argument("--data", nargs="+", default=[], metavar="FILE", help=text)
    p.add_argument("--length", type=int, default=512, help="512 or 1024")
    p.add_argument("--micro-batch", type=int, default=32, help="what memory takes")
    p.add_argument("--samples", type=int, default=256, help="of each point")
    p.add_argument("--device", default="cuda")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--smoke", action="store_true", help="tiny; its figures mean nothing")
    args = p.parse_args(argv)
    if args.slice is not None and args.slice * 60 <= 3 * STARTING:
        raise ConfigError(
            f"--slice {args.slice:g} is used up by starting and ending: give at least "
            f"{3 * STARTING / 60 + 0.5:g} minutes."
        )
    missing = [path for path in args.data if not glob.glob(path)]
    if missing:
        raise ConfigError(f"--data {missing[0]} is not there: name text files.")
    sizes = dict(length=args.length, micro_batch=args.micro_batch, samples=args.samples)
    args.recipe = recipe = SMOKE if args.smoke else Recipe(**sizes)
    if recipe.length < 3 or recipe.micro_batch < 1 or recipe.batch % recipe.micro_batch:
        raise ConfigError(
            f"--length {recipe.length} must be at least 3, and --micro-batch "
            f"{recipe.micro_batch} divide the batch of {recipe.batch}."
        )
    return args


def main(argv=None, start=start) -> int:
    try:
        args = parsed(argv)
        page = Quality(
            args.out,
            args.recipe,
            device=args.device,
            seed=args.seed,
            data=tuple(str(Path(path).absolute()) for path in args.data),
            minutes=args.slice,
            start=start,
        ).run()
    except OutOfTime as error:
        print(f"gpu_quality: {error} The same command goes on.")
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
