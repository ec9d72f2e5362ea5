"""Section 4 as data: what is trained, at which steps it is sampled, what was published.

Every perplexity in this file is the paper's. None was measured by this project.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mdlm_mcd.errors import ConfigError


@dataclass(frozen=True)
class Method:
    """The work of a distiller in a training step, beside the student's own pass.

    teacher_passes: forward passes of the teacher. head_rows: the share of a sequence's
    rows that are projected onto the vocabulary: for masked models those that are
    masked, half of them on average, t being uniform. uniform: a uniform-state model,
    from a teacher of its own.
    """

    teacher_passes: int
    head_rows: float = 0.5
    uniform: bool = False


METHODS = {
    "mcd": Method(1),
    "sdtt": Method(2),
    "cd4lm": Method(1),
    "dcd": Method(1, head_rows=1.0, uniform=True),
    "mdlm": Method(0, head_rows=1.0),  # teachers; hosts project every row
}


@dataclass(frozen=True)
class Run:
    """One training, in OUT/runs/NAME; tables that need the same one share it.

    diverges: its failure is a result, as that of the reverse KL in Table 2.
    """

    name: str
    label: str
    algo: str
    recipe: str
    overrides: tuple[str, ...] = ()
    diverges: bool = False

    @property
    def method(self) -> Method:
        return METHODS[self.algo]

    def key(self, round: int) -> str:
        """Return the row's name in results files and reports."""
        return f"{self.label} round {round}"


RUNS = {
    run.name: run
    for run in (
        Run("mcd", "MCD", "mcd", "owt_mcd"),
        Run("sdtt", "SDTT", "sdtt", "owt_sdtt"),
        Run("dcd", "Duo", "dcd", "owt_dcd"),
        Run("cd4lm", "Subset consistency", "cd4lm", "owt_cd4lm"),
        Run("mcd-kl_fwd", "MCD kl_fwd", "mcd", "owt_mcd", ("algo.loss=kl_fwd",)),
        Run("mcd-kl_bwd", "MCD kl_bwd", "mcd", "owt_mcd", ("algo.loss=kl_bwd",), diverges=True),
        Run("mcd-large", "MCD", "mcd", "owt_mcd_large"),
        Run("sdtt-large", "SDTT", "sdtt", "owt_sdtt_large"),
    )
}

GPT2 = "gpt2-large"
LLAMA = "meta-llama/Meta-Llama-3-8B"
TEACHER, DUO_TEACHER = "teacher", "Duo teacher"


@dataclass(frozen=True)
class Table:
    """One table or figure: who is sampled, after which rounds, at which steps.

    published: perplexity by (row's name, steps); None where training failed. optional:
    runs that no figure was published of, made when --methods names them.
    """

    name: str
    title: str
    runs: tuple[str, ...]
    rounds: tuple[int, ...]
    steps: tuple[int, ...]
    published: Mapping[tuple[str, int], float | None]
    evaluator: str = GPT2
    teacher_recipe: str = "owt_teacher"
    optional: tuple[str, ...] = ()
    note: str = ""

    def chosen(self, names: str | None) -> Table:
        """Keep only the runs that `--methods NAME,NAME` names. Raises ConfigError."""
        if names is None:
            return self
        known = (*self.runs, *self.optional)
        wanted = [name.strip() for name in names.split(",") if name.strip()]
        unknown = [name for name in wanted if name not in known]
        if unknown or not wanted:
            raise ConfigError(
                f"--methods {names}: {self.name} knows {', '.join(known)}; name one or "
                "more of them."
            )
        return replace(self, runs=tuple(wanted))

    @property
    def trained(self) -> tuple[Run, ...]:
        return tuple(RUNS[name] for name in self.runs)


STEPS = (32, 64, 128, 256, 512)


def _table1() -> dict[tuple[str, int], float | None]:
    """Return Table 1 of `published.json`."""
    table = json.loads(Path(__file__).with_name("published.json").read_text("utf-8"))
    names = {"mdlm": TEACHER, "duo": "Duo", "mcd": "MCD", "sdtt": "SDTT"}
    found = {}
    for row in table["rows"]:
        name = names[row["algo"]]
        if row["round"]:
            name += f" round {row['round']}"
        elif name != TEACHER:
            name = DUO_TEACHER
        found |= by_steps(name, row["perplexity"], table["steps"])
    return found


def by_steps(name: str, values, steps=STEPS) -> dict[tuple[str, int], float | None]:
    return {(name, n): value for n, value in zip(steps, values, strict=True)}


TABLES = {
    table.name: table
    for table in (
        Table(
            "table1",
            "Table 1: MCD, SDTT and Duo over five rounds",
            ("mcd", "sdtt", "dcd"),
            (1, 2, 3, 4, 5),
            STEPS,
            _table1(),
            optional=("cd4lm",),
        ),
        Table(
            "table2",
            "Table 2: losses, after the first round",
            ("mcd", "mcd-kl_fwd", "mcd-kl_bwd"),
            (1,),
            (32,),
            {
                ("MCD round 1", 32): 94.97,
                ("MCD kl_fwd round 1", 32): 110.86,
                ("MCD kl_bwd round 1", 32): None,
                (TEACHER, 32): 163.27,
            },
            note="The paper says of kl_bwd that its loss explodes: the guard stopping "
            "it is the result.",
        ),
        Table(
            "table3",
            "Table 3: 863M parameters, the first round",
            ("mcd-large", "sdtt-large"),
            (1,),
            STEPS,
            {
                **by_steps(TEACHER, (260.17, 155.23, 100.49, 75.68, 62.92)),
                **by_steps("SDTT round 1", (228.06, 136.71, 88.86, 67.43, 55.57)),
                **by_steps("MCD round 1", (204.10, 121.01, 77.31, 58.06, 48.54)),
            },
            evaluator=LLAMA,
            teacher_recipe="owt_teacher_large",
        ),
        Table(
            "figure3",
            "Figure 3: teacher and rounds of MCD from 8 to 512 steps",
            ("mcd",),
            (1, 2, 3, 4, 5),
            (8, 16, *STEPS),
            {key: x for key, x in _table1().items() if key[0].startswith((TEACHER, "MCD"))}
            | {("MCD round 5", 8): 118.1},
            note="Section 4.2 gives 118.1 at 8 steps and no round; the last is "
            "assumed. At 16 steps the figure has no number.",
        ),
    )
}
