"""`mdlm-mcd demo`: from a trained teacher, five rounds of MCD, samples and a comparison.

Teacher, judge and text come with the package; `--from-scratch` trains both first. What is
trained is measured by `sweep` and shown by `report`. Every stage leaves its result on disk and
is skipped when that is there, so the same command goes on after an interruption.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ..checkpoints.files import write_json
from ..coupling import counter_generator
from ..errors import border, require
from ..evaluation import evaluators, report
from ..evaluation.candidates import Source, open_model
from ..evaluation.plan import Plan, Setting, grid
from ..evaluation.sweep import draw
from ..settings.console import progress
from . import demo_tables, stages, sweep

BATCH = 96  # samples and rows at a time
COMMON = (
    "callbacks=[checkpoint_every_n_steps,lines]",
    # Figures are compared across machines, so devices are, too.
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "+trainer.enable_model_summary=false",
)


@dataclass(frozen=True)
class Recipe:
    """What the demo does; `overrides` are every training's.

    judge_steps, teacher_steps: trained here; 0: those that come with the package.
    """

    name: str = "from the shipped teacher"
    steps: tuple[int, ...] = (4, 8, 16)  # of the teacher and the last round
    few: int = 8  # of every round
    most: int = 128  # steps, of the teacher at T = 1 alone
    samples: int = 64
    bound_rows: int = 32  # of held-out text, for the N-step NELBO
    text_rows: int = 512  # of it, for everything else
    temperature: float = 0.8  # of the control: the teacher, only sharper
    overrides: tuple[str, ...] = ()
    judge_steps: int = 0
    teacher_steps: int = 0
    student: str = "mcd_text"  # the recipe
    rounds: int = 5
    steps_per_round: int = 40


SCRATCH = Recipe(
    name="from scratch",
    judge_steps=600,
    teacher_steps=1600,
    student="mcd_laptop",
    steps_per_round=100,
)
QUICK: dict[str, Any] = dict(
    steps=(4, 8), most=16, samples=8, bound_rows=8, rounds=2, steps_per_round=5
)
SMALL = (
    "data.max_chars=300000",
    "data.vocab_size=512",
    "model.hidden_size=32",
    "model.n_blocks=2",
    "model.n_heads=2",
    "model.length=32",
    "trainer.limit_val_batches=2",
)


def recipe(from_scratch: bool = False, quick: bool = False) -> Recipe:
    """Return what the flags of the command ask for."""
    found = SCRATCH if from_scratch else Recipe()
    if not quick:
        return found
    small = dict(judge_steps=20, teacher_steps=30, overrides=SMALL) if from_scratch else {}
    return replace(found, name=f"{found.name}, quick", **QUICK, **small)


def configure(parser) -> None:
    parser.description = (
        "Distils the small masked diffusion model of English that comes with the package "
        "with MCD over five rounds, and samples teacher and students in few steps. Leaves "
        "report.html, table.md, perplexity_vs_steps.png, samples.txt and results.json. Run it "
        "again to go on after an interruption."
    )
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="where to write")
    add("--seed", type=int, default=1)
    add("--from-scratch", action="store_true", help="train a teacher and its judge first")
    text = "the same chain in about a minute; its figures mean nothing"
    add("--quick", action="store_true", help=text)
    parser.epilog = "Example: mdlm-mcd demo --out demo"
    parser.set_defaults(call=call)


def call(args) -> None:
    run(Path(args.out), seed=args.seed, recipe=recipe(args.from_scratch, args.quick))


def noise(seed: int, what: str, *counters: int):
    """Return the sweep's noise but for draws, whose batch is one: the same for every model."""
    key = ("demo", counters[0]) if what == "sweep" else (what, *counters)
    return counter_generator(seed, *key)


def run(out: Path, *, seed: int = 1, recipe: Recipe = Recipe()) -> dict[str, Any]:
    """Make the demo in folder `out`; return what `results.json` contains.

    Raises ConfigError for a folder that cannot be used, StageError for an unfinished training.
    """
    with border("The figure needs matplotlib", "pip install 'mdlm-mcd[demo]'"):
        import matplotlib  # noqa: F401 - before the work, not after it
    require(0 <= seed < 2**32, "--seed", seed, "a whole number from 0 to 2^32 - 1")
    console, settings = Console(), {"recipe": asdict(recipe), "seed": seed}
    out = stages.claim(out, settings, "demo.json", "demo")
    console.print(
        f"About {_minutes(recipe)} on two CPU cores. Everything goes to {out}; the same command "
        "goes on after an interruption."
    )
    results = {**settings, "rows": _rows(out, seed, recipe, console)}
    how = dict(reference="teacher", title="MCD on a laptop")
    found = report.write([out / "results.jsonl"], out / "report.html", **how)
    console.print(demo_tables.table(found))
    console.print(demo_tables.side_by_side(found))
    console.print(demo_tables.reading(found), markup=False)
    write_json(out / "results.json", results)
    (out / "table.md").write_text(demo_tables.markdown(found, recipe.name), "utf-8")
    (out / "samples.txt").write_text(demo_tables.samples(found), "utf-8")
    demo_tables.perplexity_vs_steps(found, out / "perplexity_vs_steps.png")
    console.print(
        "Wrote report.html, table.md, perplexity_vs_steps.png, samples.txt, results.json "
        f"and results.jsonl to {out}."
    )
    return results


def _rows(out: Path, seed: int, recipe: Recipe, console: Console) -> list[dict[str, Any]]:
    """Train, then sweep over the teacher, also sharpened, and the rounds."""

    def train(stage: str, steps: int, *overrides: str) -> str:
        with progress(console, f"training: {stage}") as update:
            checkpoint = stages.train(
                out / stage,
                [*overrides, *COMMON, *recipe.overrides, f"seed={seed}"],
                steps,
                out / "log.txt",
                on_step=lambda step: update(step, steps),
            )
            update(steps, steps)
        return str(checkpoint)

    judge, teacher = "mdlm-mcd/judge", "mdlm-mcd/teacher"
    if recipe.teacher_steps:
        judge = train("judge", recipe.judge_steps, "algo=ar", "+recipe=laptop_judge")
        teacher = train("teacher", recipe.teacher_steps, "algo=mdlm", "+recipe=laptop_teacher")
    _first_look(teacher, recipe, seed, console)
    given = ["algo=mcd", f"+recipe={recipe.student}", stages.override("algo.teacher_path", teacher)]
    given += [f"algo.{key}={getattr(recipe, key)}" for key in ("rounds", "steps_per_round")]
    train("mcd", recipe.rounds * recipe.steps_per_round, *given)
    students = [
        Source(f"MCD round {k}", str(out / f"mcd/checkpoints/round-{k}.ckpt"))
        for k in range(1, recipe.rounds + 1)
    ]
    second = evaluators.outside()  # takes its time, so of few points

    def outside(model, point):
        asked = second and (point.steps, point.temperature) == (recipe.few, 1.0)
        return second.reading(model.tokenizer) if asked else None

    how = dict(judge=judge, rows=recipe.text_rows, noise=noise, console=console, outside=outside)
    points, rows = grid(recipe.steps), []
    tempered = grid(recipe.steps, (recipe.temperature,))
    for sources, mine in (
        ([Source("teacher", teacher)], (*points, *grid([recipe.most]), *tempered)),
        (students[:-1], grid([recipe.few])),
        (students[-1:], points),
    ):
        plan = Plan(mine, recipe.samples, BATCH, recipe.bound_rows, seed)
        rows += sweep.sweep(sources, plan, out / "results.jsonl", **how)
    return rows


def _first_look(teacher: str, recipe: Recipe, seed: int, console: Console) -> None:
    """Print a sample of the teacher in few steps, and one in many."""
    model = open_model(Source("teacher", teacher))
    for steps in (8, recipe.most):
        tokens, _ = draw(model, Setting(steps=steps), Plan((), 1, 1, seed=seed), noise)
        (text,) = model.tokenizer.batch_decode(tokens)
        console.print(f"\nThe teacher in {steps} steps (float64):\n{text}", markup=False)


def _minutes(recipe: Recipe) -> str:
    if recipe.samples == QUICK["samples"]:
        return "a minute"
    return "20 minutes" if recipe.teacher_steps else "5 minutes"
