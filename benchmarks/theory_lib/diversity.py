"""What does MCD do to the diversity of samples, beside a stochastic distillation?"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from bench import jobs
from bench.methods import MCD
from bench.setting import ExactLanguage
from bench.sizes import BATCH, LANGUAGE
from bench.summary import KNOWN

from mdlm_mcd.evaluation import metrics
from mdlm_mcd.evaluation.plan import Plan, Setting
from mdlm_mcd.evaluation.sweep import draw

from .pages import Table, shown

SMALL = ("model.length=32", "model.hidden_size=32", "model.n_blocks=2", "model.n_heads=2")
PART = replace(
    LANGUAGE,
    model=(*LANGUAGE.model, *SMALL),
    teacher_steps=1200,
    steps_per_round=30,
    corpus_rows=4000,
    samples=256,
    bound_rows=64,
    language={"vocab": 12, "components": 2, "branches": 3},
)
STEPS, SEEDS = 8, (1, 2, 3, 4)
MANY = ("mcd", "sdtt")  # these have all seeds, the others two
TEMPERATURES = (1.1, 0.9, 0.8, 0.7, 0.6)
STUDENTS = ("mcd", "sdtt", "sdtt, tau falling", "mcd, kl_fwd", "mcd, tau 1")
SEEN = "perplexity bigram_entropy distinct_3 self_bleu".split()
COMPARED = "perplexity corpus_entropy distinct_3 self_bleu bigram_tv".split()
FIGURES = (
    "perplexity entropy corpus_entropy bigram_entropy distinct_2 distinct_3 self_bleu bigram_tv"
).split()


def figures(setting, weights, seed: int, temperature: float = 1.0) -> dict:
    """Of samples in STEPS steps, by the evaluation's own functions."""
    model = setting.candidate("model", KNOWN[MCD], weights)
    point = Setting(steps=STEPS, temperature=temperature)
    plan = Plan((point,), setting.part.samples, BATCH, seed=seed)
    tokens, _ = draw(model, point, plan, jobs.noise)
    return of_tokens(setting, tokens)


def of_tokens(setting, tokens: torch.Tensor) -> dict:
    found = metrics.measure(
        tokens, evaluator=setting.evaluator, corpus_tokens=setting.held_out, resamples=2
    )
    return {name: found[name]["value"] for name in FIGURES}


def student(setting, name: str, seed: int) -> dict:
    """Return the figures of a student's last round."""
    job = jobs.Job("language", name, KNOWN[name], seed)
    rounds = jobs.students(job, setting, setting.folder / f"{name}-{seed}.pt")
    return figures(setting, rounds[max(rounds)], seed)


def mean(rows: list[dict]) -> dict:
    return {name: sum(row[name] for row in rows) / len(rows) for name in FIGURES}


def at_equal(curve: list[dict], key: str, value: float) -> dict | None:
    """Return the tempered teacher where its `key` is `value`, between two temperatures."""
    curve = sorted(curve, key=lambda row: row[key])
    for low, high in zip(curve, curve[1:], strict=False):
        if low[key] <= value <= high[key]:
            share = (value - low[key]) / (high[key] - low[key])
            return {n: low[n] + share * (high[n] - low[n]) for n in FIGURES}
    return None


def measured() -> list[Table]:
    with tempfile.TemporaryDirectory() as folder:
        setting = ExactLanguage(PART, Path(folder))
        teacher = setting.prepare("teacher")
        curve = [
            mean([figures(setting, teacher, seed, t) for seed in SEEDS[:2]])
            for t in (1.0, *TEMPERATURES)
        ]
        jobs.keep(setting.folder / "teacher.pt", teacher)
        each = {
            name: [student(setting, name, seed) for seed in SEEDS[: None if name in MANY else 2]]
            for name in STUDENTS
        }
        text = setting.held_out
        language = of_tokens(setting, text[: PART.samples])
        reference = metrics.corpus_reference(text, num_samples=PART.samples)
        language["bigram_tv"] = reference["bigram_tv"]
    return report(language, curve, each)


def report(language: dict, curve: list[dict], each: dict[str, list[dict]]) -> list[Table]:
    """Return the tables; each: the figures of every student, a dict a seed."""
    names = ["teacher", *(f"teacher, T = {t:g}" for t in TEMPERATURES)]
    rows = {"the language": language} | dict(zip(names, curve, strict=True))
    rows |= {name: mean(by_seed) for name, by_seed in each.items()}
    whole = Table(
        f"{STEPS} steps, {PART.samples} samples of 32 tokens of "
        f"{PART.language['vocab']} kinds, mean of the seeds: {len(SEEDS)} for "
        f"{' and '.join(MANY)}, two for all else",
        " | ".join(["", *FIGURES]),
        [(n, *(row[f] for f in FIGURES)) for n, row in rows.items()],
    )
    ratios = {name: beside(curve, by_seed) for name, by_seed in each.items()}
    equal = (
        "The same of each seed's figure over that of the teacher at the "
        "temperature of equal bigram entropy (empty: none is equal)"
    )
    return [
        whole,
        ranges("Lowest and highest of the seeds", SEEN, each),
        ranges(equal, COMPARED, ratios),
    ]


def beside(curve: list[dict], by_seed: list[dict]) -> list[dict]:
    """Return ratios to the teacher by seed; each seed has a temperature of its own."""
    pairs = [(row, at_equal(curve, "bigram_entropy", row["bigram_entropy"])) for row in by_seed]
    return [{f: row[f] / same[f] for f in COMPARED} for row, same in pairs if same]


def ranges(caption: str, columns: list[str], found: dict[str, list[dict]]) -> Table:
    """Return a table of the lowest and the highest of each student's dicts."""

    def cell(values: list[float]) -> str:
        return f"{shown(min(values))} to {shown(max(values))}" if values else ""

    rows = [(n, *(cell([row[f] for row in by]) for f in columns)) for n, by in found.items()]
    return Table(caption, " | ".join(["", *columns]), rows)
