"""What the command leaves: the verdict, a report page a part, and docs/results.md."""

from __future__ import annotations

import json
import math
from pathlib import Path

from mdlm_mcd.checkpoints.files import read_json
from mdlm_mcd.evaluation import report

from . import outcome, tables
from .methods import ORACLE, TEACHER, UNIFORM, Method
from .sizes import SIZES
from .store import Store
from .verdict import Figures, interval, reference, t_of

TITLES = {"language": "An exactly solvable language", "text": "The standard library's English"}

# Parts whose figures are shown and no sentences made of them.
INCONCLUSIVE = {
    "text": "These figures support no conclusion yet: on the same 32 held-out rows the "
    "teacher's N-step NELBO is 4.92 to 4.97 nats a token, and a table of bigrams "
    "(add-5) has 3.62 (of unigrams 5.20), so that the models compared are worse at "
    "this text than counting pairs of tokens."
}


def write(folder: Path, size: str, docs: Path | None = None, say=print) -> list[Path]:
    """Everything from the rows held in `folder`; answers the files written."""
    rows = Store(folder).rows()
    written = []
    parts = {}
    for name in SIZES[size]:
        figures = Figures(rows, name)
        if figures.methods:
            parts[name] = figures
            written += _report(folder, size, figures)
    text = page(folder, size, parts)
    for path in (folder / "results.md", docs):
        if path is not None:
            path.write_text(text, "utf-8")
            written.append(path)
    for figures in parts.values():
        say(f"\n{TITLES[figures.part]}:")
        say("\n".join(_headline(figures)))
    say("Wrote " + ", ".join(str(path) for path in written) + ".")
    return written


def foreign(path: Path) -> str:
    """Return why a file is no page of this benchmark; empty where it is one."""
    ours = b"Written by `python benchmarks/quality.py" in path.read_bytes()
    return "" if ours else "it is no page of this benchmark"


def page(folder: Path, size: str, parts: dict[str, Figures]) -> str:
    """docs/results.md as text."""
    facts = read_json(folder / "facts.json", {})
    version = read_json(folder / "version.json", {}).get("version")
    lines = [
        "# MCD beside its baselines and controls",
        "",
        f"Written by `python benchmarks/quality.py{_flag(folder.name, size)}` from its "
        "figures; not by hand. Every table below follows from the rows it kept, and so "
        "does every sentence but where a part supports no conclusion.",
        "",
    ]
    for name, figures in parts.items():
        lines += [f"## {TITLES[name]}: outcome", ""]
        lines += [*_headline(figures), ""]
        lines += [] if name in INCONCLUSIVE else outcome.of_part(figures)
    lines += ["## How to read this", "", *READING, ""]
    lines += ["## How it was measured", "", *_measured(size, parts, facts, version), ""]
    lines += ["## The methods", "", *_methods(parts), ""]
    for name, figures in parts.items():
        lines += [f"## {TITLES[name]}: tables", "", *tables.part(figures)]
    return "\n".join(lines).rstrip() + "\n"


def _headline(figures: Figures) -> list[str]:
    known = INCONCLUSIVE.get(figures.part)
    return [known] if known else outcome.headline(figures)


READING = [
    "Every difference is paired: the same seed means the same order of data, the same "
    "noise in training where methods use it alike, and the same noise in sampling. "
    "Intervals are 95% of Student's t over seeds. A win, tie or loss is MCD's: the "
    "interval of the other method's figure against MCD's excludes zero, or does not. A "
    "tie is no proof of equality: its interval says how much could hide in it. "
    "No correction is made for the number of comparisons: of a hundred true ties "
    "about five are called otherwise.",
    "",
    "Columns are sampling steps; `8, lattice` is the sampler's `u_law=lattice` with "
    "`u_step=1/8`, where MCD is on the lattice as well. At equal entropy a method's "
    "perplexity is divided by that of the teacher at the constant temperature whose "
    "samples have the same entropy (interpolated between T = 0.5 and 1, never "
    "beyond; – where no such temperature was measured), at the same steps, law and "
    "seed. Raw perplexity rewards sharpness: read it beside the entropies. Conditional "
    "bigram entropy is pooled over samples, and sees a collapse that the entropy of "
    "single samples does not.",
]


def _flag(folder: str, size: str) -> str:
    oracle = " --part language --teacher oracle" if folder.endswith("oracle") else ""
    return {"full": "", "quick": " --quick"}.get(size, f" --size {size}") + oracle


def _measured(size: str, parts, facts: dict, version: str | None) -> list[str]:
    lines = [f"- Code version {version}; {facts.get('minutes', 0.0):.0f} minutes."]
    for held in facts.get("machines", []):
        versions = ", ".join(f"{k} {v}" for k, v in held["versions"].items())
        machine = ", ".join(f"{k}: {v}" for k, v in held["machine"].items())
        lines.append(f"- Hardware: {machine}; one thread a process. {versions}.")
    for name in parts:
        part = SIZES[size][name]
        text = facts.get("parts", {}).get(name, {})
        own = f"; held-out text scores {text['perplexity']:.2f}" if text else ""
        lines.append(
            f"- {TITLES[name]}: teacher of {part.teacher_steps} steps; students of "
            f"{part.rounds} rounds of {part.steps_per_round} steps (without rounds: "
            f"{part.total_steps}), delta0 = 1/{round(1 / part.delta0)}; "
            f"{part.seeds[0]} seeds for the main methods and {part.seeds[1]} for the "
            f"others; {part.samples} samples a seed and point by `sparse`, drawn in "
            f"float64; N-step NELBO on {part.bound_rows} held-out rows{own}."
        )
    return lines


def _methods(parts: dict[str, Figures]) -> list[str]:
    """What each name stands for, as the command line would say it."""
    lines = ["| method | seeds | what it is |", "| --- | ---: | --- |"]
    shown = {m: None for figures in parts.values() for m in figures.methods}
    for method in shown:
        seeds = {figures.seeds(method.name) for figures in parts.values()}
        text = " ".join(f"`{o}`" for o in method.overrides) or _teacher(method)
        if method.oracle:
            text += ", the exact denoiser as the teacher of every round"
        elif method.teacher == UNIFORM and method.trained:
            text += f", from the {UNIFORM}"
        counts = " / ".join(str(n) for n in sorted(seeds - {0}, reverse=True))
        lines.append(f"| {method.name} | {counts} | {text} |")
    return lines


def _teacher(method: Method) -> str:
    if method.name == ORACLE:
        return "the exact denoiser, sampled"
    if method.name == UNIFORM:
        return "`algo=duo_base`, sampled by the host"
    if isinstance(method.temperature, tuple):
        start, end = method.temperature
        return f"`algo=mdlm` sampled at T falling from {start:g} to {end:g}"
    return f"`algo=mdlm` sampled at T = {method.temperature:g}"


def _report(folder: Path, size: str, figures: Figures) -> list[Path]:
    """Rows of means over seeds in the schema of `mdlm-mcd report`, and their page."""
    path = folder / f"{figures.part}.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in rows(figures, size)]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    out = folder / f"{figures.part}.html"
    report.write([path], out, reference=TEACHER, title=TITLES[figures.part])
    return [path, out]


def rows(figures: Figures, size: str):
    """One row a point: means over seeds with intervals over seeds."""
    part = SIZES[size][figures.part]
    facts = {
        "schema": 1,
        "sampler": "sparse",
        "dtype": "float64",
        "seed": 1,
        "num_samples": part.samples,
        "host": "minihost",
        "length": 64 if size != "tiny" else 16,
        "evaluator": "exact likelihood"
        if figures.part == "language"
        else "AR model of the minihost",
    }
    for method in figures.methods:
        constant = t_of(method)
        for place in figures.places:
            for k in (*figures.rounds(method.name), None):
                metrics = _means(figures, method.name, place, k)
                if "perplexity" not in metrics:
                    continue
                name = TEACHER if constant is not None else method.name
                yield {
                    **facts,
                    "model": name if k is None else f"{name}, round {k}",
                    "teacher": reference(method) if method.trained else None,
                    "algo": dict(o.split("=", 1) for o in method.overrides).get("algo", "mdlm"),
                    "temperature": constant or 1.0,
                    "steps": place.steps,
                    "u_law": place.law,
                    "u_step": None if place.law == "iid" else 1 / place.steps,
                    "recipe": {"overrides": list(method.overrides)},
                    "metrics": metrics,
                }


KEPT = (
    "n_step_nelbo",
    "perplexity",
    "entropy",
    "corpus_entropy",
    "bigram_entropy",
    "bigram_tv",
    "distinct_1",
    "distinct_2",
    "distinct_3",
    "self_bleu",
)


def _means(figures: Figures, method: str, place, k) -> dict:
    found = {}
    for metric in KEPT:
        mine = interval(figures.of(metric, method, place, k).values())
        if mine is None:
            continue
        shown = math.exp if metric == "perplexity" else float
        found[metric] = {
            "value": shown(mine.mean),
            "low": None if mine.low is None else shown(mine.low),
            "high": None if mine.high is None else shown(mine.high),
        }
    return found
