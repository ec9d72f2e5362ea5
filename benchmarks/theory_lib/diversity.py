"""What does MCD do to the diversity of samples, beside a stochastic distillation?"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from bench import jobs, methods, train
from bench.setting import ExactLanguage
from bench.sizes import BATCH, LANGUAGE

from mdlm_mcd.evaluation import metrics
from mdlm_mcd.evaluation.plan import Plan, Setting
from mdlm_mcd.evaluation.sweep import draw

from .pages import Table, shown

PART = replace(
    LANGUAGE,
    model=(
        *LANGUAGE.model,
        "model.length=32",
        "model.hidden_size=32",
        "model.n_blocks=2",
        "model.n_heads=2",
    ),
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
SEEN = ("perplexity", "bigram_entropy", "distinct_3", "self_bleu")
COMPARED = ("perplexity", "corpus_entropy", "distinct_3", "self_bleu", "bigram_tv")
FIGURES = (
    "perplexity",
    "entropy",
    "corpus_entropy",
    "bigram_entropy",
    "distinct_2",
    "distinct_3",
    "self_bleu",
    "bigram_tv",
)


def figures(setting, weights, seed: int, temperature: float = 1.0) -> dict:
    """Of samples in STEPS steps, by the evaluation's own functions."""
    model = setting.masked("model", weights)
    point = Setting(steps=STEPS, temperature=temperature)
    plan = Plan((point,), setting.part.samples, BATCH, seed=seed)
    tokens, _ = draw(model, point, plan, jobs.noise)
    return of_tokens(setting, tokens)


def of_tokens(setting, tokens: torch.Tensor) -> dict:
    found = metrics.measure(
        tokens, evaluator=setting.evaluator, corpus_tokens=setting.held_out, resamples=2
    )
    return {name: found[name]["value"] for name in FIGURES}


def students(setting, teacher) -> dict[str, list]:
    """Return the last round's weights of every student, by seed."""
    known = {method.name: method for method in methods.METHODS}
    found = {}
    for name in STUDENTS:
        found[name] = []
        for seed in SEEDS[: None if name in MANY else 2]:
            rounds = train.fit(
                jobs.overrides(known[name], setting.part, seed),
                setting.tokenizer,
                setting.rows,
                start=teacher,
                every=setting.part.steps_per_round,
            )
            found[name].append((seed, rounds[max(rounds)]))
    return found


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


def measured(part=PART) -> list[Table]:
    with tempfile.TemporaryDirectory() as folder:
        setting = ExactLanguage(part, Path(folder))
        teacher = setting.prepare("teacher")
        taught = students(setting, teacher)
        curve = [
            mean([figures(setting, teacher, seed, t) for seed in SEEDS[:2]])
            for t in (1.0, *TEMPERATURES)
        ]
        each = {
            name: [figures(setting, weights, seed) for seed, weights in by_seed]
            for name, by_seed in taught.items()
        }
        language = of_tokens(setting, setting.held_out[: part.samples])
        language["bigram_tv"] = metrics.corpus_reference(
            setting.held_out, num_samples=part.samples
        )["bigram_tv"]
    return report(language, curve, each)


def report(language: dict, curve: list[dict], each: dict[str, list[dict]]) -> list[Table]:
    """each: the figures of every student, a dict a seed."""
    names = ["teacher", *(f"teacher, T = {t:g}" for t in TEMPERATURES)]
    named = {"the language": language} | dict(zip(names, curve, strict=True))
    rows = named | {name: mean(by_seed) for name, by_seed in each.items()}
    whole = Table(
        f"{STEPS} steps, {PART.samples} samples of 32 tokens of "
        f"{PART.language['vocab']} kinds, mean of the seeds: {len(SEEDS)} for "
        f"{' and '.join(MANY)}, two for all else",
        ("", *FIGURES),
        [(n, *(row[f] for f in FIGURES)) for n, row in rows.items()],
    )
    apart = {name: extremes(by_seed) for name, by_seed in each.items()}
    ratios = {name: beside(curve, by_seed) for name, by_seed in each.items()}
    seeds, equal = (
        Table(
            caption,
            ("", *columns),
            [(n, *(ranged(found[n].get(f)) for f in columns)) for n in each],
        )
        for caption, columns, found in (
            ("Lowest and highest of the seeds", SEEN, apart),
            (
                "The same of each seed's figure over that of the teacher at the "
                "temperature of equal bigram entropy (empty: none is equal)",
                COMPARED,
                ratios,
            ),
        )
    )
    return [whole, seeds, equal]


def extremes(by_seed: list[dict]) -> dict[str, tuple[float, float]]:
    figures_ = by_seed[0] if by_seed else ()
    return {f: (min(r[f] for r in by_seed), max(r[f] for r in by_seed)) for f in figures_}


def beside(curve: list[dict], by_seed: list[dict]) -> dict[str, tuple[float, float]]:
    """Extremes of the ratios; each seed has a temperature of its own."""
    found = []
    for row in by_seed:
        same = at_equal(curve, "bigram_entropy", row["bigram_entropy"])
        if same is not None:
            found.append({f: row[f] / same[f] for f in COMPARED})
    return extremes(found)


def ranged(pair) -> str:
    return "" if pair is None else f"{shown(pair[0])} to {shown(pair[1])}"
