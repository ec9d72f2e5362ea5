"""What does MCD do to the diversity of samples, beside a stochastic distillation?"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from bench import jobs, methods, train
from bench.setting import ExactLanguage
from bench.sizes import LANGUAGE

from mdlm_mcd.evaluation import metrics

from .pages import Outcome, Table, shown

PART = replace(
    LANGUAGE,
    model=(*LANGUAGE.model, "model.length=32", "model.hidden_size=32",
           "model.n_blocks=2", "model.n_heads=2"),
    teacher_steps=1200, steps_per_round=30, corpus_rows=4000, samples=256,
    bound_rows=64,
    language={"vocab": 12, "components": 2, "branches": 3},
)  # fmt: skip
STEPS, SEEDS = 8, (1, 2)
TEMPERATURES = (0.9, 0.8, 0.7, 0.6)
STUDENTS = ("mcd", "sdtt", "sdtt, tau falling", "mcd, kl_fwd", "mcd, tau 1")
TOLD = ("bigram_entropy", "distinct_3", "self_bleu")
COMPARED = ("perplexity", "corpus_entropy", "distinct_3", "self_bleu", "bigram_tv")
FIGURES = (
    "perplexity", "entropy", "corpus_entropy", "bigram_entropy", "distinct_2",
    "distinct_3", "self_bleu", "bigram_tv",
)  # fmt: skip


def figures(setting, weights, seed: int, temperature: float = 1.0) -> dict:
    """Of samples in STEPS steps, by the evaluation's own functions."""
    model = setting.masked("model", weights)
    point = jobs.Point(STEPS)
    tokens = jobs.draw(model, point, temperature, setting.part.samples, seed)
    return of_tokens(setting, tokens)


def of_tokens(setting, tokens: torch.Tensor) -> dict:
    found = metrics.measure(
        tokens, evaluator=setting.evaluator, corpus_tokens=setting.held_out, resamples=2
    )
    return {name: found[name]["value"] for name in FIGURES}


def students(setting, teacher) -> dict[str, list]:
    """The last round's weights of every student, by seed."""
    known = {method.name: method for method in methods.METHODS}
    found = {}
    for name in STUDENTS:
        found[name] = []
        for seed in SEEDS[: 2 if name in STUDENTS[:3] else 1]:
            rounds = train.fit(
                jobs.overrides(known[name], setting.part, seed), setting.tokenizer,
                setting.rows, start=teacher, every=setting.part.steps_per_round,
            )  # fmt: skip
            found[name].append((seed, rounds[max(rounds)]))
    return found


def mean(rows: list[dict]) -> dict:
    return {name: sum(row[name] for row in rows) / len(rows) for name in FIGURES}


def at_equal(curve: list[dict], key: str, value: float) -> dict | None:
    """The tempered teacher where its `key` is `value`, between two temperatures."""
    curve = sorted(curve, key=lambda row: row[key])
    for low, high in zip(curve, curve[1:], strict=False):
        if low[key] <= value <= high[key]:
            share = (value - low[key]) / (high[key] - low[key])
            return {n: low[n] + share * (high[n] - low[n]) for n in FIGURES}
    return None


def measured(part=PART) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        setting = ExactLanguage(part, Path(folder))
        teacher = setting.prepare("teacher")
        taught = students(setting, teacher)
        curve = [
            mean([figures(setting, teacher, seed, t) for seed in SEEDS])
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


def report(language: dict, curve: list[dict], each: dict[str, list[dict]]) -> Outcome:
    """each: the figures of every student, a dict a seed."""
    rows = {name: mean(by_seed) for name, by_seed in each.items()}
    names = ["teacher", *(f"teacher, T = {t:g}" for t in TEMPERATURES)]
    named = {"the language": language} | dict(zip(names, curve, strict=True)) | rows
    whole = Table(
        f"{STEPS} steps, {PART.samples} samples of 32 tokens of "
        f"{PART.language['vocab']} kinds, mean of {len(SEEDS)} seeds (ablations of "
        "MCD: one)",
        ("", *FIGURES), [(n, *(row[f] for f in FIGURES)) for n, row in named.items()],
    )  # fmt: skip
    equal, ratios = [], {}
    for name, row in rows.items():
        same = at_equal(curve, "bigram_entropy", row["bigram_entropy"])
        if same is None:
            equal.append((name, *[""] * len(COMPARED)))
            continue
        ratios[name] = {f: row[f] / same[f] for f in FIGURES}
        equal.append((name, *(ratios[name][f] for f in COMPARED)))
    beside = Table(
        "Each student's figure over that of the teacher at the temperature of equal "
        "bigram entropy (empty: none is equal)",
        ("", *COMPARED), equal,
    )  # fmt: skip
    says = reading(language, curve[0], rows, ratios) + " " + between(each)
    return Outcome([whole, beside], says)


def between(each: dict[str, list[dict]]) -> str:
    """How far two seeds of a student are apart, where it has two."""
    told = []
    for name, by_seed in each.items():
        if len(by_seed) == 2:
            one, other = by_seed
            most = max(FIGURES, key=lambda f: abs(one[f] / other[f] - 1))
            told.append(f"{name} {abs(one[most] / other[most] - 1):.1%} ({most})")
    return f"Two seeds are apart by up to: {', '.join(told)}."


def reading(language: dict, teacher: dict, rows: dict, ratios: dict) -> str:
    def told(row):
        return ", ".join(shown(row[f]) for f in TOLD)

    sdtt, falling = rows["sdtt"], rows["sdtt, tau falling"]
    says = (
        "Against MCD's diversity: bigram entropy, distinct-3 and self-BLEU go from "
        f"{told(teacher)} (teacher) to {told(rows['mcd'])}. SDTT loses less, to "
        f"{told(sdtt)}, at a perplexity of {shown(sdtt['perplexity'])} against "
        f"{shown(rows['mcd']['perplexity'])}; with MCD's tau it collapses, to "
        f"{told(falling)}. The language itself has {told(language)}: few steps are too "
        "diverse, not too little."
    )
    if "mcd" in ratios:
        mine = ratios["mcd"]
        says += (
            " At MCD's bigram entropy a tempered teacher is no different in distinct-3 "
            f"and self-BLEU ({shown(mine['distinct_3'])} and "
            f"{shown(mine['self_bleu'])} times); MCD has {shown(mine['perplexity'])} "
            f"times its perplexity, {shown(mine['corpus_entropy'])} times its pooled "
            f"entropy and {shown(mine['bigram_tv'])} times its distance from the "
            "language's bigrams."
        )
    return says
