"""One table of the paper: distil the methods, sweep over steps, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from mdlm_mcd.checkpoints.files import check_overwrite, make_folder, read_json
from mdlm_mcd.evaluation.sweep import existing

from .experiments import DUO_TEACHER, TEACHER, Run, Table
from .stages import CLONE, COMMAND, MINIHOST, Stages, claim, override, start

STEPS_PER_ROUND = 10_000
TEACHER_STEPS = {"owt_teacher": 1_000_000, "owt_teacher_large": 400_000}
TRAIN = "train"  # in place of a checkpoint: make one

# Where and in which parts a run is computed, not what.
HOW = (
    "trainer.devices=",
    "trainer.accelerator=",
    "strategy=",
    "loader.batch_size=",
    "loader.eval_batch_size=",
    "loader.num_workers=",
    "data.cache_dir=",
)
UNIFORM_NOTE = (
    "Uniform-state models are drawn and scored by the host's own sample_eval, the "
    "others by `mdlm-mcd sweep`."
)

# Every part of the chain in seconds, on text that is always there. Figures of such a
# run mean nothing.
SMOKE = (
    "data=stdlib",
    "data.max_chars=60000",
    "data.vocab_size=300",
    "data.valid=stdlib",
    "data.tokenizer_name_or_path=bpe",
    "model.hidden_size=32",
    "model.n_blocks=1",
    "model.n_heads=2",
    "model.cond_dim=16",
    "model.length=16",
    "loader.global_batch_size=8",
    "loader.eval_global_batch_size=8",
    "trainer.accelerator=cpu",
    "trainer.limit_val_batches=1",
    "callbacks=[checkpoint_every_n_steps,lines]",
    "logger=csv",
    "lr_scheduler.num_warmup_steps=1",
    "+trainer.enable_progress_bar=false",
    "+trainer.enable_model_summary=false",
)
SMOKE_STEPS = 2


@dataclass(frozen=True)
class Setting:
    """What a user says beside the table; `command.py` documents each.

    host: a clone; None: the embedded host. data: text files in place of OpenWebText.
    """

    out: Path
    teacher: str | None = None
    duo_teacher: str | None = None
    host: Path | None = None
    cache: str | None = None
    data: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    evaluator: str | None = None
    num_samples: int = 1024
    bound_rows: int = 256
    batch_size: int = 32
    device: str = "cuda"
    devices: int = 2
    seed: int = 1
    smoke: bool = False
    overrides: tuple[str, ...] = ()

    @classmethod
    def tiny(cls, out: Path, **told) -> Setting:
        """A smoke run: the same chain in seconds, on a CPU, with all of it made here.

        told: what takes effect in a smoke run, too (seed, overrides).
        """
        return cls(
            out,
            TRAIN,
            TRAIN,
            evaluator=TRAIN,
            num_samples=2,
            bound_rows=2,
            batch_size=2,
            device="cpu",
            devices=1,
            smoke=True,
            **told,
        )


def smaller(table: Table) -> Table:
    """What a smoke run makes of a table: fewer rounds and steps, all of its methods."""
    return replace(table, rounds=table.rounds[:2], steps=(2, 4))


class Chain:
    """The stages of one table in one folder; trainings are shared between tables."""

    def __init__(self, table: Table, setting: Setting, *, start=start, say=print):
        self.table = smaller(table) if setting.smoke else table
        self.setting, self.say = setting, say
        self.out = make_folder(setting.out)
        self.results = make_folder(self.out / table.name)
        path = self.results / "table.md"
        check_overwrite(f"--out: {path}", path, self.foreign)
        self.stages = Stages(self.out, start, say)
        self.per_round = SMOKE_STEPS if setting.smoke else STEPS_PER_ROUND

    def foreign(self, path: Path) -> str:
        ours = path.read_bytes().startswith(f"# {self.table.title}\n".encode())
        return "" if ours else "it is not this table"

    # Overrides --------------------------------------------------------------------

    def data(self) -> list[str]:
        """Where text, caches and devices are."""
        told = self.setting
        if told.smoke:
            return [override("data.cache_dir", self.out / "cache")]
        found = [override("data.cache_dir", told.cache)] if told.cache else []
        if told.data:
            found += [
                "data=textfile",
                override("data.files", told.data),
                "data.tokenizer_name_or_path=gpt2",
            ]
        if told.host is None and told.devices > 1:
            found.append("strategy=ddp")
        return found

    def common(self) -> list[str]:
        """What every training is given last."""
        tiny = SMOKE if self.setting.smoke else ()
        return [
            *self.data(),
            f"trainer.devices={self.setting.devices}",
            f"seed={self.setting.seed}",
            *tiny,
            *self.setting.overrides,
        ]

    def overrides(self, run: Run, teacher: str | Path) -> list[str]:
        """Of a distillation, but for its number of rounds and steps."""
        return [
            f"algo={run.algo}",
            f"+recipe={run.recipe}",
            override("algo.teacher_path", teacher),
            *run.overrides,
            *self.common(),
        ]

    def length(self, run: Run) -> list[str]:
        """As many rounds as the table needs; subset consistency has one, a long one."""
        rounds, steps = self.table.rounds[-1], self.per_round
        if run.algo == "cd4lm":
            return ["algo.rounds=1", f"algo.steps_per_round={rounds * steps}"]
        # With 16 tokens, smaller gaps would reveal nothing.
        gap = ["algo.delta0=0.125"] if self.setting.smoke else []
        if self.setting.smoke and run.method.uniform:
            gap.append("algo.gamma_max=2")  # the authors' is for larger vocabularies
        return [f"algo.rounds={rounds}", f"algo.steps_per_round={steps}", *gap]

    @property
    def max_steps(self) -> int:
        return self.table.rounds[-1] * self.per_round

    # Stages -----------------------------------------------------------------------

    def run(self) -> str:
        """Everything, from wherever it stands; answers the table's text."""
        teachers = {False: self.teacher(TEACHER, self.setting.teacher, "mdlm")}
        if any(run.method.uniform for run in self.table.trained):
            told = self.setting.duo_teacher
            teachers[True] = self.teacher(DUO_TEACHER, told, "duo_base")
        rows: dict[bool, list[tuple[str, str]]] = {False: [], True: []}
        rows[False].append((TEACHER, str(teachers[False])))
        if True in teachers:
            rows[True].append((DUO_TEACHER, str(teachers[True])))
        for run in self.table.trained:
            uniform = run.method.uniform
            rows[uniform] += self.distil(run, teachers[uniform])
        self.sweep(rows[False])
        for name, path in rows[True]:
            self.sample_uniform(name, path)
        self.report()
        text = self.text()
        (self.results / "table.md").write_text(text + "\n", "utf-8")
        return text

    def teacher(self, name: str, told: str | None, algo: str) -> str | Path:
        """The checkpoint that was named, or one trained here."""
        if told != TRAIN:
            return told
        recipe = self.table.teacher_recipe
        folder = self.out / "runs" / f"{recipe}-{algo}"
        steps = SMOKE_STEPS if self.setting.smoke else TEACHER_STEPS[recipe]
        overrides = [f"algo={algo}", f"+recipe={recipe}", *self.common()]
        self.claim(folder, overrides)
        return self.stages.train(
            name, folder, overrides, steps, module=self.module, host=self.setting.host
        )

    def claim(self, folder: Path, overrides: Sequence[str]) -> None:
        """How a batch is divided changes neither noise nor data, so it may change.

        Raises ConfigError where a folder holds a run with other settings.
        """
        claim(folder, {"overrides": [x for x in overrides if not x.startswith(HOW)]})

    def judge(self) -> str:
        """The evaluator's name, or the checkpoint of a smoke run's own."""
        if self.setting.evaluator != TRAIN:
            return self.setting.evaluator or self.table.evaluator
        folder = self.out / "runs" / "judge"
        overrides = ["algo=ar", *self.common()]
        self.claim(folder, overrides)
        return str(self.stages.train("evaluator", folder, overrides, SMOKE_STEPS))

    @property
    def module(self) -> str:
        return CLONE if self.setting.host else MINIHOST

    def distil(self, run: Run, teacher: str | Path) -> list[tuple[str, str]]:
        """(row's name, checkpoint) of each round that the table shows."""
        folder = self.out / "runs" / run.name
        overrides = self.overrides(run, teacher)
        self.claim(folder, overrides)
        last = 1 if run.algo == "cd4lm" else self.table.rounds[-1]
        checkpoints = folder / "checkpoints"
        if not (checkpoints / f"round-{last}.ckpt").exists():
            found = self.stages.train(
                run.label,
                folder,
                [*overrides, *self.length(run)],
                self.max_steps,
                target=f"round-{last}.ckpt",
                module=self.module,
                host=self.setting.host,
                diverges=run.diverges,
            )
            if found is None:
                self.say(f"{run.label}: diverged, as the paper's did")
        rounds = (1,) if run.algo == "cd4lm" else self.table.rounds
        paths = [(run.key(k), checkpoints / f"round-{k}.ckpt") for k in rounds]
        return [(name, str(path)) for name, path in paths if path.exists()]

    def tokenizer(self) -> str:
        """GPT-2's, unless an override names another."""
        key, found = "data.tokenizer_name_or_path=", "gpt2"
        for given in self.setting.overrides:
            found = given[len(key) :] if given.startswith(key) else found
        return found

    def sweep(self, rows: Sequence[tuple[str, str]]) -> None:
        told = self.setting
        tokenizer = [] if told.smoke else ["--tokenizer", self.tokenizer()]
        host = ["--host", str(told.host)] if told.host else []
        corpus = ["--corpus", *told.held_out] if told.held_out else []
        self.say(f"sampling {len(rows)} models at {len(self.table.steps)} step counts")
        self.stages.must(
            "sweep",
            COMMAND,
            [
                "sweep",
                *(f"{name}={path}" for name, path in rows),
                "--steps",
                ",".join(map(str, self.table.steps)),
                "--num-samples",
                str(told.num_samples),
                "--bound-rows",
                str(told.bound_rows),
                "--batch-size",
                str(told.batch_size),
                "--seed",
                str(told.seed),
                "--evaluator",
                self.judge(),
                "--device",
                told.device,
                "--out",
                str(self.results / "results.jsonl"),
                *corpus,
                *tokenizer,
                *host,
            ],
        )

    def sample_uniform(self, name: str, checkpoint: str) -> None:
        """A uniform-state model, drawn and scored by the host's own `sample_eval`.

        The samplers of `mdlm-mcd sweep` are for masked models.
        """
        told = self.setting
        if not Path(checkpoint).is_file():
            self.say(f"{name}: {checkpoint} is no file, so the host cannot sample it")
            return
        batches = -(-told.num_samples // told.batch_size)
        scored = [
            f"eval.compute_generative_perplexity={not told.smoke}",
            override(
                "eval.gen_ppl_eval_model_name_or_path", told.evaluator or self.table.evaluator
            ),
        ]
        for n in self.table.steps:
            path = self.uniform(name, n)
            if read_json(path, None) is not None:
                continue
            self.say(f"{name}: {n} steps")
            make_folder(path.parent)
            self.stages.must(
                f"{name} at {n} steps",
                self.module,
                [
                    "mode=sample_eval",
                    "algo=duo_base",
                    "+recipe=owt",
                    *self.common(),
                    override("eval.checkpoint_path", checkpoint),
                    f"sampling.steps={n}",
                    f"sampling.num_sample_batches={batches}",
                    f"loader.eval_batch_size={told.batch_size}",
                    *scored,
                    override("eval.generated_samples_path", path),
                    override("hydra.run.dir", path.parent),
                ],
                folder=told.host,
            )

    def uniform(self, name: str, steps: int) -> Path:
        """Samples and score of a uniform-state model, as its host writes them."""
        slug = name.replace(" ", "-")
        return self.results / "uniform" / f"{slug}-{steps}.json"

    def report(self) -> None:
        title = self.table.title + (" (smoke run)" if self.setting.smoke else "")
        self.stages.must(
            "report",
            COMMAND,
            [
                "report",
                str(self.results / "results.jsonl"),
                "--reference",
                TEACHER,
                "--title",
                title,
                "--out",
                str(self.results / "report.html"),
            ],
        )

    # What came out ----------------------------------------------------------------

    def measured(self) -> dict[tuple[str, int], str]:
        """Perplexity and entropy of each row at hand, by (name, steps)."""
        found = {}
        for row in existing(self.results / "results.jsonl"):
            metrics = row["metrics"]
            found[row["model"], row["steps"]] = (
                f"{metrics['perplexity']['value']:.2f} / {metrics['entropy']['value']:.2f}"
            )
        for name, n in product(self.names(), self.table.steps):
            if held := read_json(self.uniform(name, n), None):
                score = held.get("generative_ppl")
                score = "-" if score is None else f"{score:.2f}"
                found[name, n] = f"{score} / {held['entropy']:.2f}"
        for run in self.table.trained:
            if (self.out / "runs" / run.name / "diverged.txt").exists():
                for n in self.table.steps:
                    found[run.key(1), n] = "FAILED"
        return found

    def names(self) -> list[str]:
        """The table's rows, teachers before their students."""
        found = [TEACHER]
        for run in self.table.trained:
            found += [DUO_TEACHER] if run.method.uniform else []
            rounds = (1,) if run.algo == "cd4lm" else self.table.rounds
            found += map(run.key, rounds)
        return found

    def text(self) -> str:
        """Measured and published, side by side, as Markdown."""
        table, measured = self.table, self.measured()
        uniform = any(run.method.uniform for run in table.trained)
        lines = [
            f"# {table.title}",
            "",
            "Perplexity / unigram entropy in nats, measured here; in brackets the "
            "perplexity that the paper (arXiv 2602.00792) publishes, which this "
            "project has not reproduced.",
            *([f"\n{table.note}"] if table.note else []),
            *([f"\n{UNIFORM_NOTE}"] if uniform else []),
            *(["\nA smoke run: its figures mean nothing."] * self.setting.smoke),
            "",
            "| model | " + " | ".join(f"{n} steps" for n in table.steps) + " |",
            "| --- " * (len(table.steps) + 1) + "|",
        ]
        for name in self.names():
            cells = [
                f"{measured.get((name, n), '-')} [{published(table, name, n)}]" for n in table.steps
            ]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        return "\n".join(lines)


def published(table: Table, name: str, steps: int) -> str:
    """The paper's figure as text: FAILED where training did, - where it gives none."""
    if (name, steps) not in table.published:
        return "-"
    value = table.published[name, steps]
    return "FAILED" if value is None else f"{value:.2f}"
