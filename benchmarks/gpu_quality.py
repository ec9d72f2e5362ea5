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
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from paper.stages import StageError, Stages, claim, override, start

from mdlm_mcd.checkpoints.files import make_folder
from mdlm_mcd.errors import ConfigError, MCDError
from mdlm_mcd.evaluation.sweep import existing

UNFINISHED = 3  # exit status: a slice is over, the same command goes on
SAVING = 60.0  # seconds of a slice that are left for the last checkpoint
DISTILLED = {"mcd": "MCD", "sdtt": "SDTT", "cd4lm": "Subset consistency"}
LAWS = ("iid", "lattice")


class OutOfTime(MCDError):
    """The slice is over; the same command goes on."""


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
    every: int = 250  # steps between validations, and between checkpoints
    rounds: int = 5
    steps_per_round: int = 1_000
    steps: tuple[int, ...] = (4, 8, 16, 32, 64, 128)
    temperatures: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    samples: int = 256
    bound_rows: int = 64
    overrides: str = "model=small"

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
    every=2,
    rounds=2,
    steps_per_round=2,
    steps=(2, 4),
    temperatures=(0.8, 1.0),
    samples=2,
    bound_rows=2,
    overrides="model=laptop model.hidden_size=32 model.n_blocks=1 model.n_heads=2 "
    "model.cond_dim=16 data.max_chars=60000 trainer.limit_val_batches=1",
)


class Quality:
    """All stages of one recipe in one folder."""

    def __init__(self, args: argparse.Namespace, recipe: Recipe, start=start, say=print):
        self.args, self.recipe, self.say = args, recipe, say
        name = hardware(args.device)
        self.out = make_folder(args.out) / name
        settings = {"hardware": name, "recipe": repr(recipe), "seed": args.seed, "data": args.data}
        claim(self.out, settings)
        self.results = self.out / "results.jsonl"
        self.stages = Stages(self.out, start, say)

    def train(self, name: str, algo: str, steps: int, *overrides: str, target="last.ckpt") -> Path:
        recipe, args = self.recipe, self.args
        words = f"""
            algo={algo} data={"textfile" if args.data else "stdlib"} seed={args.seed}
            model.length={recipe.length} data.vocab_size={recipe.vocab_size}
            loader.global_batch_size={recipe.batch} loader.batch_size={recipe.micro_batch}
            lr_scheduler.num_warmup_steps={max(1, steps // 50)}
            trainer.accelerator={"cpu" if args.device == "cpu" else "gpu"} trainer.devices=1
            trainer.val_check_interval={recipe.every * recipe.batch // recipe.micro_batch}
            callbacks=[checkpoint_every_n_steps,checkpoint_monitor,lines]
            callbacks.checkpoint_every_n_steps.every_n_train_steps={recipe.every}
            +trainer.enable_progress_bar=false +trainer.enable_model_summary=false
        """
        if algo in ("ar", "mdlm"):  # the distillers' own callback: save at SIGTERM
            saves = "mdlm_mcd.distillers.callbacks.preemption.Preemption"
            folder = self.out / "runs" / name / "checkpoints"
            words += f" +callbacks.preemption._target_={saves} "
            overrides = (*overrides, override("+callbacks.preemption.dirpath", folder))
        files = [override("data.files", args.data)] if args.data else []
        cache = override("data.cache_dir", self.out / "cache")
        given = [*recipe.overrides.split(), *words.split(), *files, cache, *overrides]
        return self.stages.train(name, given, steps, target=target)

    def pretrain(self, name: str, algo: str, steps: int) -> Path:
        """Train evaluator or teacher from random weights."""
        own = ["lr_scheduler=cosine_decay_warmup", "optim.lr=6e-4", "training.ema=0.999"]
        own += ["algo.loss_type=low_var"] if algo == "mdlm" else []
        return self.train(name, algo, steps, *own, target="best.ckpt")

    def student(self, name: str, algo: str, *overrides: str, target="last.ckpt") -> Path:
        """Train at the optimizer, batch and length that students and `continued` share."""
        same = ["optim.lr=1e-4", "training.ema=0.99"]
        return self.train(name, algo, self.recipe.budget, *same, *overrides, target=target)

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
        recipe, args = self.recipe, self.args
        for n in recipe.steps:
            points = {(t, law) for t in temperatures for law in LAWS}
            left = {name: rows[name] for name in rows if points - self.measured(name, n)}
            if not left:
                continue
            self.say(f"sampling: {len(left)} models at {n} steps")
            flags = {
                "--steps": n,
                "--temperature": ",".join(map(str, temperatures)),
                "--u-law": ["iid", f"lattice:1/{n}"],
                "--num-samples": recipe.samples,
                "--bound-rows": recipe.bound_rows,
                "--seed": args.seed,
                "--batch-size": min(64, recipe.samples),
                "--evaluator": judge,
                "--device": args.device,
                "--out": self.results,
            }
            self.stages.sweep(left, flags)

    def measured(self, name: str, steps: int) -> set[tuple[float, str]]:
        """Return (temperature, law) of a model's rows that are measured."""
        return {
            (row["temperature"], row["u_law"])
            for row in existing(self.results)
            if (row["model"], row["steps"]) == (name, steps)
        }

    def run(self) -> Path:
        """Run everything, from wherever it stands; return the report."""
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

    def slice(self, minutes: float | None) -> Path:
        """Run for that long at most, or until it is done (None). Raises OutOfTime.

        A stage that runs then is sent SIGTERM, at which a training saves. Raises StageError
        where nothing was saved or measured: the next slice would begin at the same place.
        """

        def over(signum, frame):
            raise OutOfTime("The slice is over.")

        began, before = time.time(), signal.signal(signal.SIGALRM, over)
        signal.setitimer(signal.ITIMER_REAL, 60 * minutes - SAVING if minutes else 0)
        try:
            return self.run()
        except OutOfTime as error:
            kept = [self.results, *self.out.glob("runs/*/checkpoints/*.ckpt")]
            if not any(path.exists() and path.stat().st_mtime >= began for path in kept):
                raise StageError(
                    f"--slice {minutes:g} is too short for one point of {self.recipe.samples} "
                    "samples or one checkpoint: give it more minutes, or take fewer --samples in "
                    "another --out."
                ) from error
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


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


def parsed(argv=None) -> tuple[argparse.Namespace, Recipe]:
    """Return the flags and the recipe. Raises ConfigError for impossible ones."""
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
    if args.slice is not None and args.slice * 60 <= SAVING:
        raise ConfigError(
            f"--slice {args.slice:g} is used up by starting and ending: give at least 2 minutes."
        )
    for path in args.data:
        if not glob.glob(path):
            raise ConfigError(f"--data {path} is not there: name text files.")
    args.data = [str(Path(path).absolute()) for path in args.data]
    sizes = dict(length=args.length, micro_batch=args.micro_batch, samples=args.samples)
    recipe = SMOKE if args.smoke else Recipe(**sizes)
    if recipe.length < 3 or recipe.micro_batch < 1 or recipe.batch % recipe.micro_batch:
        raise ConfigError(
            f"--length {recipe.length} must be at least 3, and --micro-batch "
            f"{recipe.micro_batch} divide the batch of {recipe.batch}."
        )
    return args, recipe


def main(argv=None, start=start) -> int:
    try:
        args, recipe = parsed(argv)
        page = Quality(args, recipe, start).slice(args.slice)
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
