"""Tables and pictures of the demo, out of its results file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from ..evaluation.frontier import Match, match
from ..evaluation.report import view
from ..evaluation.results import Point, Results

TEXT = "perplexity", "entropy"


def _curves(results: Results) -> dict[str, list[Point]]:
    """Return each curve's points by steps, the teacher's first."""
    return {n if t == 1 else f"{n}, T = {t:g}": results.of(n, t) for n, t in view.every(results)}


def _value(point: Point, metric: str) -> float:
    return point.metric(metric).value


def _cell(perplexity: float, entropy: float, between: str) -> str:
    return f"{view.number(perplexity)}{between}{entropy:.2f}"


def _caption(results: Results) -> str:
    how = results.points[0]
    return (
        f"by sampling steps: perplexity under a left-to-right evaluator / unigram "
        f"entropy of a sample in nats; {how.num_samples} samples of {how.length} tokens, drawn "
        f"in {how.dtype}; held-out text: {_cell(*(how.corpus[k] for k in TEXT), ' / ')}"
    )


def _rows(results: Results, between: str) -> Iterator[tuple[str, ...]]:
    for name, points in _curves(results).items():
        cells = {p.steps: _cell(*(_value(p, k) for k in TEXT), between) for p in points}
        yield name, f"{_value(points[0], 'nelbo'):.3f}", *(cells.get(n, "") for n in results.steps)


def table(results: Results) -> Table:
    """Return for the terminal: perplexity, and under it entropy."""
    out = Table(caption=_caption(results), caption_justify="left")
    out.add_column("", no_wrap=True)
    for title in ("NELBO", *map(str, results.steps)):
        out.add_column(title, justify="right", no_wrap=True)
    for row in _rows(results, "\n"):
        out.add_row(*row)
    return out


def markdown(results: Results, recipe: str) -> str:
    """Return the same table, how to read it, and what made it."""
    header = ["", "NELBO", *(f"{n} steps" for n in results.steps)]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *_rows(results, " / ")]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    how = results.points[0]
    versions = ", ".join(f"{k} {v}" for k, v in how.versions.items())
    device = "{device} with {threads} threads".format_map(how.machine)
    made = f"Recipe `{recipe}`, seed {how.seed}, {device}; {versions}."
    return "\n\n".join([text, _caption(results) + ".", reading(results), made]) + "\n"


def _verdict(found: Match) -> str:
    """Return who wins at equal entropy, if the 95% interval of the ratio excludes 1."""
    gain = found.other / found.perplexity - 1
    return {
        "better": f"the student wins by {gain:.0%}",
        "worse": f"the tempered teacher wins by {-gain:.0%}",
        "a tie": f"a tie within two standard errors ({gain:+.0%})",
    }.get(found.verdict, found.verdict)


def reading(results: Results) -> str:
    """Return what the figures say, in sentences made from them."""
    teacher, *students = results.names
    last, few = students[-1], view.middle(results)
    here, at_teacher = results.at(last, 1, few), results.of(teacher, 1)
    y, entropy = (_value(here, k) for k in TEXT)
    reached = "does not reach the teacher at more steps."
    slow = [p for p in at_teacher if _value(p, "perplexity") >= y]
    if slow and slow[-1].steps > few:
        there, of_there = (_value(slow[-1], k) for k in TEXT)
        reached = (
            f"is at or below the teacher at {slow[-1].steps} ({there:.1f}), at an entropy of "
            f"{entropy:.2f} against {of_there:.2f} nats."
        )
    parts = [f"{last} at {few} steps ({y:.1f}) {reached}"]
    for name in reversed(students):
        found = match(results, results.at(name, 1, few), teacher)
        if found and found.other:
            parts.append(
                f"At the entropy of {name} ({found.entropy:.2f} nats, {few} steps) a teacher "
                f"that is only sampled at a lower temperature scores {found.other:.1f} against "
                f"the student's {found.perplexity:.1f}: {_verdict(found)}."
            )
            break
    else:
        parts.append(
            "No student's entropy lies between the teacher's and the tempered teacher's, so they "
            "are not compared at equal entropy."
        )
    if second := here.metric("outside_perplexity"):
        of_teacher = _value(results.at(teacher, 1, few), "outside_perplexity")
        parts.append(
            f"{here.row['outside_evaluator']}, which learned other text, gives the teacher "
            f"{of_teacher:.0f} and {last} {second.value:.0f} at {few} steps."
        )
    before, after = _value(at_teacher[0], "nelbo"), _value(here, "nelbo")
    further = ": part of the gain may be further training of a teacher that was not done"
    parts.append(
        f"The NELBO, which does not reward sharpness, goes from {before:.3f} (teacher) to "
        f"{after:.3f} ({last}){further * (after < before - 0.005)}."
    )
    return " ".join(parts)


def side_by_side(results: Results) -> Table:
    """Return text of teacher and last student in few steps, and of the teacher in many."""
    teacher, last, few = results.names[0], results.names[-1], view.middle(results)
    places = (teacher, few), (last, few), (teacher, results.steps[-1])
    out, shown = Table(show_lines=True), [results.at(name, 1, n) for name, n in places]
    for point in shown:
        out.add_column(f"{point.name}, {point.steps} steps", ratio=1)
    for texts in zip(*(point.texts[:2] for point in shown), strict=True):
        out.add_row(*map(escape, texts))
    return out


def samples(results: Results) -> str:
    """Return two samples a model at the fewest, at 8 and at the most steps."""
    out = []
    for name, points in _curves(results).items():
        for point in (p for p in points if p.steps in view.few(results)):
            y, entropy = (_value(point, k) for k in TEXT)
            figures = f"perplexity {y:.1f}, entropy {entropy:.2f} nats"
            out.append(f"=== {name}, {point.steps} steps ({figures})\n")
            out += [f"{text}\n---" for text in point.texts[:2]]
    return "\n".join(out) + "\n"


def perplexity_vs_steps(results: Results, path: Path) -> None:
    """Draw the paper's Figure 3, with the entropy it leaves out beside it."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure, how = Figure(figsize=(11, 4.2), layout="constrained"), results.points[0]
    axes = dict(zip(TEXT, figure.subplots(1, 2), strict=True))
    for metric, axis in axes.items():
        for name, points in _curves(results).items():
            look = dict(color="#5b7083", marker="s")  # the teacher
            if points[0].temperature != 1:
                look |= dict(marker="v", linestyle="--")
            if i := results.names.index(points[0].name):
                shade = 0.35 + 0.6 * i / (len(results.names) - 1)
                look = dict(color=colormaps["Oranges"](shade), marker="o")
            steps = [p.steps for p in points]
            values, lows, highs = zip(*(p.metric(metric) for p in points), strict=True)
            axis.plot(steps, values, label=name, **look)
            axis.vlines(steps, lows, highs, color=look["color"])
        axis.axhline(how.corpus[metric], color="black", lw=1, ls=":", label="held-out text")
        axis.set_xscale("log", base=2)
        axis.set_xticks(results.steps, map(str, results.steps))
        axis.set_xlabel("sampling steps")
        axis.grid(alpha=0.25)
    axes["perplexity"].set(title="generative perplexity (evaluator: AR)", yscale="log")
    axes["entropy"].set(title="unigram entropy of a sample (nats)")
    handles = axes["perplexity"].get_legend_handles_labels()
    figure.legend(*handles, fontsize=8, loc="outside right center")
    drawn = f"{how.num_samples} samples of {how.length} tokens, drawn in {how.dtype}"
    figure.suptitle(f"MCD on a laptop: {drawn}; bars: 95% intervals", fontsize=10)
    figure.savefig(path, dpi=130)
