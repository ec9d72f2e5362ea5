"""One table of the paper: distil the methods, sweep over steps, report."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from itertools import product
from pathlib import Path

from mdlm_mcd.checkpoints.files import make_folder, read_json
from mdlm_mcd.commands import stages
from mdlm_mcd.commands.stages import claim, override
from mdlm_mcd.evaluation.rows import existing

from .experiments import DUO_TEACHER, TEACHER, Run, Table

STEPS_PER_ROUND = 10_000
TEACHER_STEPS = {"owt_teacher": 1_000_000, "owt_teacher_large": 400_000}
TRAIN = "train"  # in place of a checkpoint: make one
COMMAND = "mdlm_mcd.commands.main"
# What the guard says of a loss that has left its scale (distillers/callbacks/global_batch.py).
DIVERGED = "was to be expected"

# Where and in which parts a run is computed, which changes neither noise nor data.
HOW = (
    *("trainer.devices=", "trainer.accelerator=", "strategy=", "loader.batch_size="),
    *("loader.eval_batch_size=", "loader.num_workers=", "data.cache_dir="),
)

# Every part of the chain in seconds, on text that is always there. Figures of such a run are
# not meaningful.
SMOKE = """
    data=stdlib data.max_chars=60000 data.vocab_size=300 data.valid=stdlib
    data.tokenizer_name_or_path=bpe
    model.hidden_size=32 model.n_blocks=1 model.n_heads=2 model.cond_dim=16 model.length=16
    loader.global_batch_size=8 loader.eval_global_batch_size=8
    trainer.accelerator=cpu trainer.limit_val_batches=1
    callbacks=[checkpoint_every_n_steps,lines] logger=csv lr_scheduler.num_warmup_steps=1
    +trainer.enable_progress_bar=false +trainer.enable_model_summary=false
""".split()
SMOKE_STEPS = 2


class Chain:
    """The stages of one table in one folder; trainings are shared between tables.

    given: the flags of `command.py`.
    """

    def __init__(self, table: Table, given: Namespace, *, run=stages.run, say=print):
        if given.smoke:
            table = replace(table, rounds=table.rounds[:2], steps=(2, 4))
        self.table, self.given, self.stage, self.say = table, given, run, say
        self.out = Path(given.out or "OUT").resolve()
        self.log = self.out / "log.txt"
        self.results = self.out / table.name / "results.jsonl"
        self.per_round = SMOKE_STEPS if given.smoke else STEPS_PER_ROUND

    # Overrides --------------------------------------------------------------------

    def common(self) -> list[str]:
        """Return what every training is given last."""
        given = self.given
        if given.smoke:
            own = [override("data.cache_dir", self.out / "cache"), *SMOKE]
        else:
            own = [override("data.cache_dir", given.cache)] if given.cache else []
            if given.data:
                own += ["data=textfile", override("data.files", given.data)]
                own.append("data.tokenizer_name_or_path=gpt2")
            if given.host is None and given.devices > 1:
                own.append("strategy=ddp")
        return [*own, f"trainer.devices={given.devices}", f"seed={given.seed}", *given.overrides]

    def overrides(self, run: Run, teacher: str | Path) -> list[str]:
        """Return those of a distillation, but for its number of rounds and steps."""
        own = [f"algo={run.algo}", f"+recipe={run.recipe}", override("algo.teacher_path", teacher)]
        return [*own, *run.overrides, *self.common()]

    def length(self, run: Run) -> list[str]:
        """Return as many rounds as the table needs, or the one long round of a method."""
        if run.method.one_round:
            return ["algo.rounds=1", f"algo.steps_per_round={self.max_steps}"]
        # With 16 tokens, smaller gaps would reveal nothing.
        gap = ["algo.delta0=0.125"] if self.given.smoke else []
        if self.given.smoke and run.method.uniform:
            gap.append("algo.gamma_max=2")  # the authors' is for larger vocabularies
        return [
            f"algo.rounds={self.table.rounds[-1]}",
            f"algo.steps_per_round={self.per_round}",
            *gap,
        ]

    @property
    def max_steps(self) -> int:
        return self.table.rounds[-1] * self.per_round

    def rounds(self, run: Run) -> tuple[int, ...]:
        """Return the rounds of a run that the table shows."""
        return (1,) if run.method.one_round else self.table.rounds

    # Stages -----------------------------------------------------------------------

    def run(self) -> str:
        """Run everything, from wherever it stands; return the table's text."""
        make_folder(self.results.parent)
        rows, uniform = {TEACHER: self.teacher(self.given.teacher, "mdlm")}, {}
        if any(run.method.uniform for run in self.table.trained):
            uniform[DUO_TEACHER] = self.teacher(self.given.duo_teacher, "duo_base")
        for run in self.table.trained:
            if run.method.uniform:
                uniform |= self.distil(run, uniform[DUO_TEACHER])
            else:
                rows |= self.distil(run, rows[TEACHER])
        self.say(f"sampling {len(rows)} models at {len(self.table.steps)} step counts")
        models = [f"{name}={path}" for name, path in rows.items()]
        self.must("sweep", COMMAND, ["sweep", *models, *self.measuring()])
        for (name, path), n in product(uniform.items(), self.table.steps):
            self.sample_uniform(name, path, n)
        title = self.table.title + (" (smoke run)" if self.given.smoke else "")
        page = str(self.results.with_name("report.html"))
        shown = [str(self.results), "--reference", TEACHER, "--title", title, "--out", page]
        self.must("report", COMMAND, ["report", *shown])
        text = self.text()
        self.results.with_name("table.md").write_text(text + "\n", "utf-8")
        return text

    def must(self, stage, module, arguments, folder=None) -> None:
        """Run a stage. Raises StageError with the end of its output."""
        done = self.stage(module, arguments, self.log, folder=folder)
        if done.status != 0:
            raise done.failed(stage, self.log)

    def train(self, name, overrides, steps, *, length=(), target=None, diverges=False):
        """Train in OUT/runs/NAME to `steps` steps; return `target` where it is, else the last.

        None where the loss diverged and `diverges` says that this is a result. length: further
        overrides, which a later table may change. Raises ConfigError where the folder has a run
        of other settings, StageError where it stops.
        """
        folder, settings = self.out / "runs" / name, (x for x in overrides if not x.startswith(HOW))
        claim(folder, {"overrides": [*settings]}, "settings.json", "run")
        failure = folder / "diverged.txt"
        if failure.exists():
            return None
        if target and (path := folder / "checkpoints" / target).exists():
            return path  # of a run that may be of more rounds than are needed here
        self.say(f"{name}: trains to step {steps:,}")
        given, how = [*overrides, *length], dict(host=self.given.host, run=self.stage)
        try:
            return stages.train(folder, given, steps, self.log, **how)
        except stages.StageError as error:
            if not diverges or DIVERGED not in error.output:
                raise
            failure.write_text(error.output[-2_000:], "utf-8")
            return None

    def teacher(self, given: str | None, algo: str) -> str | Path:
        """Return the checkpoint that was named, or train one."""
        if given != TRAIN:
            return given
        recipe = self.table.teacher_recipe
        steps = SMOKE_STEPS if self.given.smoke else TEACHER_STEPS[recipe]
        overrides = [f"algo={algo}", f"+recipe={recipe}", *self.common()]
        return self.train(f"{recipe}-{algo}", overrides, steps)

    def distil(self, run: Run, teacher: str | Path) -> dict[str, Path]:
        """Return the checkpoint of each round that the table shows, by row's name."""
        last = self.train(
            run.name,
            self.overrides(run, teacher),
            self.max_steps,
            length=self.length(run),
            target=f"round-{self.rounds(run)[-1]}.ckpt",
            diverges=run.diverges,
        )
        if last is None:
            self.say(f"{run.label}: diverged, as the paper's did")
        checkpoints = self.out / "runs" / run.name / "checkpoints"
        paths = {run.key(k): checkpoints / f"round-{k}.ckpt" for k in self.rounds(run)}
        return {name: path for name, path in paths.items() if last or path.exists()}

    def measuring(self) -> list[str]:
        """Return the flags of `mdlm-mcd sweep`."""
        given, evaluator = self.given, self.given.evaluator
        if evaluator == TRAIN:
            evaluator = self.train("judge", ["algo=ar", *self.common()], SMOKE_STEPS)
        key, tokenizer = "data.tokenizer_name_or_path=", "gpt2"
        for x in given.overrides:
            tokenizer = x.removeprefix(key) if x.startswith(key) else tokenizer
        flags = ["--steps", ",".join(map(str, self.table.steps)), "--seed", given.seed]
        flags += ["--num-samples", given.num_samples, "--bound-rows", given.bound_rows]
        flags += ["--batch-size", given.batch_size, "--device", given.device]
        flags += ["--evaluator", evaluator, "--out", self.results]
        flags += ["--corpus", *given.held_out] if given.held_out else []
        flags += [] if given.smoke else ["--tokenizer", tokenizer]
        return [*map(str, flags)]

    def sample_uniform(self, name: str, checkpoint: str | Path, steps: int) -> None:
        """Draw and score a uniform-state model by the host's own `sample_eval`.

        The samplers of `mdlm-mcd sweep` are for masked models.
        """
        given, path = self.given, self.uniform(name, steps)
        if read_json(path, None) is not None:
            return
        if not Path(checkpoint).is_file():
            self.say(f"{name}: {checkpoint} is no file, so the host cannot sample it")
            return
        self.say(f"{name}: {steps} steps")
        arguments = [
            *"mode=sample_eval algo=duo_base +recipe=owt".split(),
            *self.common(),
            f"sampling.steps={steps}",
            f"sampling.num_sample_batches={-(-given.num_samples // given.batch_size)}",
            f"loader.eval_batch_size={given.batch_size}",
            f"eval.compute_generative_perplexity={not given.smoke}",
            override("eval.checkpoint_path", checkpoint),
            override("eval.gen_ppl_eval_model_name_or_path", given.evaluator),
            override("eval.generated_samples_path", path),
            override("hydra.run.dir", make_folder(path.parent)),
        ]
        module = stages.CLONE if given.host else stages.MINIHOST
        self.must(f"{name} at {steps} steps", module, arguments, given.host)

    def uniform(self, name: str, steps: int) -> Path:
        """Return the file of a uniform-state model's samples, written by its host."""
        slug = name.replace(" ", "-")
        return self.results.parent / "uniform" / f"{slug}-{steps}.json"

    # The table --------------------------------------------------------------------

    def measured(self) -> dict[tuple[str, int], str]:
        """Return perplexity and entropy of each measured row, by (name, steps)."""
        found = {}
        for row in existing(self.results):
            value = {k: row["metrics"][k]["value"] for k in ("perplexity", "entropy")}
            found[row["model"], row["steps"]] = "{perplexity:.2f} / {entropy:.2f}".format(**value)
        for name, n in product(self.names(), self.table.steps):
            if drawn := read_json(self.uniform(name, n), None):
                score = drawn.get("generative_ppl")
                score = "-" if score is None else f"{score:.2f}"
                found[name, n] = f"{score} / {drawn['entropy']:.2f}"
        for run in self.table.trained:
            if (self.out / "runs" / run.name / "diverged.txt").exists():
                found |= {(run.key(1), n): "FAILED" for n in self.table.steps}
        return found

    def names(self) -> list[str]:
        """Return the table's rows, teachers before their students."""
        found = [TEACHER]
        for run in self.table.trained:
            found += [DUO_TEACHER] if run.method.uniform else []
            found += map(run.key, self.rounds(run))
        return found

    def text(self) -> str:
        """Return measured and published figures side by side, as Markdown."""
        table, measured = self.table, self.measured()
        notes = [
            "Perplexity / unigram entropy in nats, measured here; in brackets the perplexity that "
            "the paper (arXiv 2602.00792) publishes, which this project has not reproduced.",
            table.note,
            "Uniform-state models are drawn and scored by the host's own sample_eval, the others "
            "by `mdlm-mcd sweep`." * any(run.method.uniform for run in table.trained),
            "A smoke run: its figures mean nothing." * self.given.smoke,
        ]
        lines = ["\n\n".join([f"# {table.title}", *filter(None, notes)]), ""]
        lines += header("model", *(f"{n} steps" for n in table.steps))
        for name in self.names():
            cells = (
                f"{measured.get((name, n), '-')} [{published(table, name, n)}]" for n in table.steps
            )
            lines.append(row(name, *cells))
        return "\n".join(lines)


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def header(*cells: str) -> list[str]:
    return [row(*cells), "| --- " * len(cells) + "|"]


def published(table: Table, name: str, steps: int) -> str:
    """Return the paper's figure: FAILED where training did, - where it gives none."""
    value = table.published.get((name, steps), "-")
    return "FAILED" if value is None else value if value == "-" else f"{value:.2f}"
