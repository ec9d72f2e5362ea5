"""The results as a page: sentences made of the figures, bad news first, and tables."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping

from .methods import MCD, ORACLE, TEACHER, UNIFORM, Method
from .sizes import SIZES
from .verdict import AXES, Figures, Interval, Place, interval

TITLES = {"language": "An exactly solvable language", "text": "The standard library's English"}
MARK = "Written by `python benchmarks/quality.py"
GAP = "–"

# Parts whose figures are shown and no sentences made of them.
INCONCLUSIVE = {
    "text": "These figures support no conclusion yet: on the same 32 held-out rows the "
    "teacher's N-step NELBO is 4.92 to 4.97 nats a token, and a table of bigrams "
    "(add-5) has 3.62 (of unigrams 5.20), so that the models compared are worse at "
    "this text than counting pairs of tokens."
}

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


def page(size: str, parts: Mapping[str, Figures], version: str, flag: str = "") -> str:
    """Return the whole page as markdown."""
    lines = [
        "# MCD beside its baselines and controls",
        "",
        f"{MARK}{flag}` from its figures; not by hand. Every table below follows from the "
        "rows it kept, and so does every sentence but where a part supports no conclusion.",
        "",
    ]
    for name, figures in parts.items():
        lines += [f"## {TITLES[name]}: outcome", "", *headline(name, figures), ""]
    lines += ["## How to read this", "", *READING, ""]
    lines += ["## How it was measured", "", *_measured(size, parts, version), ""]
    lines += ["## The methods", "", *_methods(parts), ""]
    for name, figures in parts.items():
        lines += [f"## {TITLES[name]}: tables", "", *tables(figures)]
    return "\n".join(lines).rstrip() + "\n"


# Sentences ------------------------------------------------------------------------


def headline(part: str, figures: Figures) -> list[str]:
    """Return the comparisons that the tables bury."""
    if part in INCONCLUSIVE:
        return [INCONCLUSIVE[part]]
    of = (_tempered, _bound, _raw, _law)
    return [f"- {sentence}" for make in of for sentence in make(figures)]


WORSE = {1: "behind", 0: "level with", -1: "ahead of"}


def _by_verdict(found: dict[Place, Interval], show) -> str:
    """`behind it at 4 steps: +3%; level with it at 8: ...`, bad news first."""
    parts = []
    for sign, word in WORSE.items():
        there = [f"{p.words}: {show(x)}" for p, x in found.items() if x.sign == sign]
        parts += [f"{word} it at {', '.join(there)}"] if there else []
    there = [f"{p.words}: {show(x)}" for p, x in found.items() if x.sign is None]
    parts += [f"not told from it by one seed at {', '.join(there)}"] if there else []
    return "; ".join(parts)


def _tempered(figures: Figures) -> Iterator[str]:
    """MCD against its own teacher, only sampled at a lower temperature."""
    for measure, axis in AXES.items():
        here = {p: figures.relative(axis, MCD, p) for p in figures.places}
        found = {p: interval(x.values()) for p, x in here.items() if x}
        out = [p for p, x in here.items() if not x and figures.of(axis, MCD, p)]
        if found:
            yield (
                f"MCD and its teacher at a lower temperature, "
                f"{measure.removeprefix('perplexity ')}, by perplexity of MCD over the "
                f"teacher's: {_by_verdict(found, percent)}."
            )
        if out:
            yield (
                f"No temperature of the teacher reaches MCD's {axis.replace('_', ' ')} "
                f"at {', '.join(p.words for p in out)}."
            )


def _bound(figures: Figures) -> Iterator[str]:
    every = {p: figures.against("n_step_nelbo", MCD, TEACHER, p) for p in figures.places}
    found = {p: x for p, x in every.items() if x}
    if found:
        yield (
            "MCD and its teacher by the N-step NELBO, nats a token, which does not "
            f"reward sharpness: {_by_verdict(found, nats)}."
        )


def _raw(figures: Figures) -> Iterator[str]:
    have = [p for p in figures.places if p.law == "iid" and figures.of("perplexity", MCD, p)]
    if not have or not figures.of("perplexity", TEACHER, have[-1]):
        return

    def level(method: str, place: Place) -> float:
        return math.exp(interval(figures.of("perplexity", method, place).values()).mean)

    most = have[-1]
    target = level(TEACHER, most)
    reach = [p for p in have if level(MCD, p) <= target]
    mcd, teacher = (
        interval(figures.of("entropy", name, p).values()).mean
        for name, p in ((MCD, (reach or have)[0]), (TEACHER, most))
    )
    entropies = f"entropy {mcd:.2f} against {teacher:.2f} nats"
    if reach:
        yield (
            f"Raw, MCD at {reach[0]} steps ({number(level(MCD, reach[0]))}) is at or below "
            f"its teacher at {most} ({number(target)}); {entropies}."
        )
    else:
        yield (
            f"Raw, MCD does not reach its teacher's perplexity at {most} steps "
            f"({number(target)}) at any number of steps; {entropies}."
        )


def _law(figures: Figures) -> Iterator[str]:
    """What the sampler's law of u is worth beside all distillation."""
    for place in figures.places:
        if place.law == "iid":
            continue
        iid = Place(place.steps)
        law = figures.against("perplexity", TEACHER, TEACHER, place, iid)
        mcd = figures.against("perplexity", MCD, TEACHER, iid)
        if law and mcd:
            yield (
                f"At {place.steps} steps the {place.law} in the sampler changes the "
                f"teacher's perplexity by {percent(law)}, MCD under iid u by {percent(mcd)}."
            )


# How it was measured ----------------------------------------------------------------


def _measured(size: str, parts: Mapping[str, Figures], version: str) -> list[str]:
    rows = [r for f in parts.values() for by_seed in f.rows.values() for r in by_seed.values()]
    lines = [f"- Code version {version}."]
    for where, what in dict.fromkeys(
        tuple(json.dumps(row[key]) for key in ("machine", "versions")) for row in rows
    ):
        machine, versions = (
            ", ".join(f"{k}{link}{v}" for k, v in json.loads(text).items())
            for text, link in ((where, ": "), (what, " "))
        )
        lines.append(f"- Hardware: {machine}; one thread a process. {versions}.")
    for name, figures in parts.items():
        part = SIZES[size][name]
        row = next(iter(next(iter(figures.rows.values())).values()))
        lines.append(
            f"- {TITLES[name]}: teacher of {part.teacher_steps} steps; students of "
            f"{part.rounds} rounds of {part.steps_per_round} steps (without rounds: "
            f"{part.total_steps}), delta0 = 1/{round(1 / part.delta0)}; "
            f"{part.seeds[0]} seeds for the main methods and {part.seeds[1]} for the "
            f"others; {part.samples} samples a seed and point by `sparse`, drawn in "
            f"float64; N-step NELBO on {part.bound_rows} held-out rows; held-out text scores "
            f"{row['corpus']['perplexity']:.2f}."
        )
    return lines


def _methods(parts: Mapping[str, Figures]) -> list[str]:
    """What each name stands for, as the command line would say it."""
    lines = ["| method | seeds | what it is |", "| --- | ---: | --- |"]
    for method in dict.fromkeys(m for figures in parts.values() for m in figures.methods):
        seeds = {figures.seeds(method.name) for figures in parts.values()}
        counts = " / ".join(str(n) for n in sorted(seeds - {0}, reverse=True))
        lines.append(f"| {method.name} | {counts} | {_what(method)} |")
    return lines


def _what(method: Method) -> str:
    start, end = method.temperatures
    if method.name == ORACLE:
        return "the exact denoiser, sampled"
    if method.name == UNIFORM:
        return "`algo=duo_base`, sampled by the host"
    if not method.overrides:
        return f"`algo=mdlm` sampled at T = {start:g}" + (f" falling to {end:g}" if end else "")
    text = " ".join(f"`{o}`" for o in method.overrides)
    if method.oracle:
        return text + ", the exact denoiser as the teacher of every round"
    return text + (f", from the {UNIFORM}" if method.teacher == UNIFORM else "")


# Tables -----------------------------------------------------------------------------


def percent(found: Interval | None) -> str:
    """A log ratio as a change in percent with its interval."""

    def of(x: float) -> str:
        change = 100 * math.expm1(x)
        return f"{change:+.0f}" if abs(change) >= 9.95 else f"{change:+.1f}"

    return _with_interval(found, of, "%")


def nats(found: Interval | None) -> str:
    return _with_interval(found, lambda x: f"{x:+.3f}", "")


def _with_interval(found: Interval | None, show: Callable[[float], str], unit: str) -> str:
    if found is None:
        return GAP
    bounds = "" if found.low is None else f" [{show(found.low)}, {show(found.high)}]"
    return f"{show(found.mean)}{unit}{bounds}"


def number(x: float) -> str:
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}" if x >= 20 else f"{x:.2f}"


def level(figures: Figures, method: Method, place: Place, round=None) -> str:
    """Perplexity (geometric mean over seeds), N-step NELBO and the three entropies."""

    def mean(metric: str) -> float | None:
        found = interval(figures.of(metric, method.name, place, round).values())
        return found and found.mean

    perplexity, bound = mean("perplexity"), mean("n_step_nelbo")
    if perplexity is None:
        return GAP
    entropies = (mean(m) for m in ("entropy", "corpus_entropy", "bigram_entropy"))
    bound = GAP if bound is None else f"{bound:.3f}"
    return f"{number(math.exp(perplexity))}; {bound}; " + " / ".join(f"{x:.2f}" for x in entropies)


def against(figures: Figures, measure: str):
    """A cell: the method's difference to MCD, and what it makes of MCD."""
    show = nats if measure == "n_step_nelbo" else percent

    def cell(method: Method, place: Place) -> str:
        if method.name == MCD:
            return GAP
        text = show(figures.against(measure, method.name, MCD, place))
        return f"{text} {figures.outcome(measure, method.name, place)}".strip()

    return cell


def at_equal(figures: Figures, measure: str):
    """A cell: perplexity over the tempered teacher's, and what MCD's makes of it."""

    def cell(method: Method, place: Place) -> str:
        values = figures.relative(AXES[measure], method.name, place)
        if not values or (method.frontier and method.name != TEACHER):
            return GAP  # the frontier itself
        text = percent(interval(values.values()))
        return f"{text} {figures.outcome(measure, method.name, place)}".strip()

    return cell


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


def by_round(figures: Figures) -> list[str]:
    """The student of every round at the one place where rounds are sampled."""
    lines = []
    for method in figures.methods:
        rounds = figures.rounds(method.name)
        if not rounds:
            continue
        place = next(key[2] for key in figures.rows if key[:2] == (method.name, rounds[0]))
        cells = [level(figures, method, place, k) for k in (*rounds, None)]
        if not lines:
            names = [f"round {k}" for k in (*rounds, rounds[-1] + 1)]
            lines = [
                f"| at {place} steps | " + " | ".join(names) + " |",
                "| --- |" + " ---: |" * len(names),
            ]
        lines.append(f"| {method.name} | " + " | ".join(cells) + " |")
    return lines


def tables(figures: Figures) -> list[str]:
    """Return all tables of a part, as lines of markdown."""
    equal, bigram = AXES
    blocks = {
        "Figures: perplexity; N-step NELBO; entropy of a sample / pooled / conditional of "
        "bigrams, in nats": matrix(figures, lambda m, p: level(figures, m, p)),
        "At equal entropy: perplexity against the tempered teacher's; win, tie or loss of "
        "MCD against the row": matrix(figures, at_equal(figures, equal)),
        "At equal conditional bigram entropy, the same": matrix(figures, at_equal(figures, bigram)),
        "N-step NELBO minus MCD's, nats a token": matrix(figures, against(figures, "n_step_nelbo")),
        "Raw perplexity against MCD's": matrix(figures, against(figures, "perplexity")),
        "Every round: perplexity; N-step NELBO; entropies": by_round(figures),
    }
    lines = []
    for title, table in blocks.items():
        if len(table) > 2:
            lines += [f"### {title}", "", *table, ""]
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
