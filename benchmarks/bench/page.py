"""The results as a page: sentences made of the figures, bad news first, and tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from .methods import MCD, TEACHER, Method
from .sizes import SIZES
from .verdict import AXES, OUTCOMES, Figures, Interval, Place, interval

TITLES = {"language": "An exactly solvable language", "text": "The standard library's English"}
MARK = "Written by `python benchmarks/quality.py"
GAP = "–"
SHOWN = ("perplexity", "n_step_nelbo", "entropy", "corpus_entropy", "bigram_entropy")
MEASURES = {  # a table's title, and what MCD is compared with in a sentence
    "perplexity at equal entropy": (
        "Perplexity over the tempered teacher's at equal entropy, against MCD's",
        "its teacher at a lower temperature, by perplexity at equal entropy",
    ),
    "perplexity at equal bigram entropy": (
        "The same at equal conditional bigram entropy",
        "its teacher at a lower temperature, by perplexity at equal bigram entropy",
    ),
    "n_step_nelbo": (
        "N-step NELBO minus MCD's, nats a token",
        "its teacher by the N-step NELBO, nats a token, which does not reward sharpness",
    ),
    "perplexity": ("Raw perplexity against MCD's", "its teacher by raw perplexity"),
}
WORSE = {1: "behind", 0: "level with", -1: "ahead of", None: "(of one seed) beside"}

# Parts whose figures are shown and no sentences made of them.
INCONCLUSIVE = {
    "text": "These figures support no conclusion yet: on the same 32 held-out rows the "
    "teacher's N-step NELBO is 4.92 to 4.97 nats a token, and a table of bigrams "
    "(add-5) has 3.62 (of unigrams 5.20), so that the models compared are worse at "
    "this text than counting pairs of tokens."
}


def page(size: str, parts: Mapping[str, Figures], version: str) -> str:
    """Return the whole page as markdown."""
    quick = {"full": "", "quick": " --quick"}.get(size, f" --size {size}")
    lines = [
        "# MCD beside its baselines and controls",
        "",
        f"{MARK}{quick}` from its figures; not by hand. Every table below follows from the "
        "rows it kept, and so does every sentence but where a part supports no conclusion. "
        "How to read them: [quality.md](quality.md).",
        "",
    ]
    for name, figures in parts.items():
        lines += [f"## {TITLES[name]}: outcome", "", *headline(name, figures), ""]
    lines += ["## How it was measured", "", *_measured(size, parts, version), ""]
    for name, figures in parts.items():
        lines += [f"## {TITLES[name]}: tables", "", *tables(figures)]
    return "\n".join(lines).rstrip() + "\n"


def headline(part: str, figures: Figures) -> list[str]:
    """Return sentences on MCD against its own teacher, bad news first."""
    if part in INCONCLUSIVE:
        return [INCONCLUSIVE[part]]
    lines = []
    for measure, (_, words) in MEASURES.items():
        found = {p: figures.against(measure, MCD, TEACHER, p) for p in figures.places}
        parts = []
        for sign, verdict in WORSE.items():
            there = [
                f"{p.words}: {difference(x, measure)}"
                for p, x in found.items()
                if x is not None and x.sign == sign
            ]
            parts += [f"{verdict} it at {', '.join(there)}"] if there else []
        lines += [f"- MCD and {words}: {'; '.join(parts)}."] if parts else []
    return lines


# How it was measured ----------------------------------------------------------------


def _measured(size: str, parts: Mapping[str, Figures], version: str) -> list[str]:
    lines = []
    for name, figures in parts.items():
        part, row = SIZES[size][name], figures.first
        machine, versions = (
            ", ".join(f"{k} {v}" for k, v in row[key].items()) for key in ("machine", "versions")
        )
        lines.append(
            f"- {TITLES[name]}: teacher of {part.teacher_steps} steps; students of "
            f"{part.rounds} rounds of {part.steps_per_round} steps (without rounds: "
            f"{part.total_steps}), delta0 = 1/{round(1 / part.delta0)}; "
            f"{part.seeds[0]} seeds for the main methods and {part.seeds[1]} for the "
            f"others; {part.samples} samples a seed and point by `sparse`, drawn in "
            f"float64; N-step NELBO on {part.bound_rows} held-out rows; held-out text scores "
            f"{row['corpus']['perplexity']:.2f}. Code version {version}; {machine}; {versions}."
        )
    lines += ["", "| method | seeds | what it is |", "| --- | ---: | --- |"]
    for method in dict.fromkeys(m for figures in parts.values() for m in figures.methods):
        counts = " / ".join(str(f.seeds(method.name)) for f in parts.values())
        lines.append(f"| {method.name} | {counts} | {method.words} |")
    return lines


# Tables -----------------------------------------------------------------------------


def difference(found: Interval, measure: str) -> str:
    """A difference with its interval: nats, or a log ratio as a change in percent."""
    ratio = measure != "n_step_nelbo"

    def show(x: float) -> str:
        change = 100 * math.expm1(x)
        percent = f"{change:+.0f}" if abs(change) >= 9.95 else f"{change:+.1f}"
        return percent if ratio else f"{x:+.3f}"

    bounds = "" if found.low is None else f" [{show(found.low)}, {show(found.high)}]"
    return show(found.mean) + "%" * ratio + bounds


def number(x: float) -> str:
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}" if x >= 20 else f"{x:.2f}"


def level(figures: Figures, method: Method, place: Place) -> str:
    """A cell: perplexity (geometric mean over seeds), N-step NELBO and three entropies."""
    perplexity, bound, *entropies = (figures.mean(m, method.name, place) for m in SHOWN)
    if perplexity is None:
        return GAP
    bound = GAP if bound is None else f"{bound:.3f}"
    return f"{number(math.exp(perplexity))}; {bound}; " + " / ".join(f"{x:.2f}" for x in entropies)


def against(figures: Figures, measure: str, method: Method, place: Place) -> str:
    """A cell: the method's difference to MCD, and what it makes of MCD."""
    if method.name == MCD or (measure in AXES and method.frontier and method.name != TEACHER):
        return GAP  # MCD itself; all of the frontier is as far as the teacher
    found = figures.against(measure, method.name, MCD, place)
    return f"{difference(found, measure)} {OUTCOMES[found.sign]}".strip() if found else GAP


def matrix(figures: Figures, cell: Callable[[Method, Place], str]) -> list[str]:
    """A table of methods by places; a row of nothing but gaps is left out."""
    places = figures.places
    lines = ["| | " + " | ".join(map(str, places)) + " |", "| --- |" + " ---: |" * len(places)]
    for method in figures.methods:
        cells = [cell(method, place) for place in places]
        if all(c == GAP for c in cells):
            continue
        name = f"**{method.name}**" if method.name == MCD else method.name
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def tables(figures: Figures) -> list[str]:
    """Return all tables of a part, as lines of markdown."""
    blocks = {
        "Figures: perplexity; N-step NELBO; entropy of a sample / pooled / conditional of "
        "bigrams, in nats": partial(level, figures)
    }
    for measure, (title, _) in MEASURES.items():
        blocks[f"{title}; win, tie or loss of MCD"] = partial(against, figures, measure)
    lines = []
    for title, cell in blocks.items():
        lines += [f"### {title}", "", *matrix(figures, cell), ""]
    if figures.stopped:
        lines += ["### Not measured", ""]
        lines += [f"- {name}: {why}" for name, why in figures.stopped.items()] + [""]
    return lines


def means(figures: Figures) -> Iterator[dict]:
    """Return one row a point for `mdlm-mcd report`: means and intervals over seeds."""
    for (method, k, place), by_seed in figures.rows.items():
        row = by_seed[min(by_seed)]
        found = {}
        for metric in row["metrics"]:
            mine = interval(figures.of(metric, method, place, k).values())
            show = math.exp if metric == "perplexity" else float
            found[metric] = {
                "value": show(mine.mean),
                "low": None if mine.low is None else show(mine.low),
                "high": None if mine.high is None else show(mine.high),
            }
        # The sample is of seeds, whose students have other weights.
        yield row | {"seed": 1, "sha256": None, "metrics": found}
