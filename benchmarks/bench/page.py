"""The rows of docs/results.jsonl as a page: sentences, bad news first, a figure, two tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mdlm_mcd.evaluation import evaluators

from .methods import EXACT, MCD, METHODS, TABLES, TEACHER
from .summary import FRONTIER, KNOWN, LEVELS, OUTSIDE

TITLES = {
    "language": "An exactly solvable language",
    "topics": "The exact language with topics",
    "text": "English out of docstrings",
}
GAP = "–"
EQUAL = "perplexity at equal entropy"
SENTENCES = {  # MCD and ... : what it is compared with
    EQUAL: "its teacher at a lower temperature, by perplexity at equal entropy",
    "perplexity at equal bigram entropy": "the same, at equal bigram entropy",
    "n_step_nelbo": "its teacher by the N-step NELBO, nats a token, which does not reward "
    "sharpness",
    "perplexity": "its teacher by raw perplexity",
}
NO_VERDICT = (
    "No verdict: the teacher is worse at this text than counting pairs of tokens, and what is "
    "distilled from it says nothing of text. The figures are in the rows."
)
WORSE = {1: "behind it", 0: "level with it", -1: "ahead of it", None: "of one seed"}
NONE = (None,) * 4
OUTCOMES = {-1: "loss", 0: "tie", 1: "win", None: ""}

STEPS = 8  # of the figure, where they were measured


def page(rows: Sequence[dict], how: Sequence[str], name: str = "results") -> str:
    """Return the page as Markdown; how: how it was measured; name: of its files."""
    lines = [
        "# MCD beside its baselines and controls",
        "",
        "Written by `python benchmarks/quality.py`. Every figure and every interval, of all "
        f"measures, rounds and parts, is a line of [{name}.jsonl]({name}.jsonl). How to read "
        "them: [quality.md](quality.md).",
    ]
    if any(row["part"] in EXACT for row in rows):
        lines += ["", f"![perplexity over entropy]({name}.svg)"]
    learned = {row["part"]: row for row in rows if row["method"] == TABLES}
    for part, title in TITLES.items():
        mine = [row for row in rows if row["part"] == part and row["method"] != TABLES]
        if not mine:
            continue
        lines += ["", f"## {title}", ""]
        if part in learned:
            lines += [taught(learned[part]), ""]
            if learned[part]["teacher"] > learned[part]["bigram"]:
                lines += [NO_VERDICT]
                continue
        last = [row for row in mine if row["round"] is None]
        lines += [*headline(last), ""]
        lines += ["### Perplexity; N-step NELBO; entropy of a sample / pooled / of bigrams", ""]
        lines += [*matrix(last, level), ""]
        lines += ["### Perplexity over the tempered teacher's at equal entropy", ""]
        lines += [
            "With the outcome for MCD against the row. A figure is over all seeds of its row, or "
            "is left out.",
            "",
            *matrix(last, outcome),
        ]
        if judged := [row for row in last if OUTSIDE in row]:
            title = f"### Perplexity under {evaluators.SMOLLM2_NAME}, which nobody trained here"
            lines += ["", title, "", *matrix(judged, lambda row: number(row[OUTSIDE]))]
    lines += [
        "",
        "## How it was measured",
        "",
        *how,
        "",
        "| method | what it is |",
        "| --- | --- |",
    ]
    names = {row["method"] for row in rows}
    lines += [f"| {m.name} | {m.words} |" for m in METHODS if m.name in names]
    return "\n".join(lines) + "\n"


def taught(found: dict) -> str:
    """Write what the teacher has learned beside tables of counts, on the same rows."""
    words = {"unigram": "a unigram table", "bigram": "a bigram table", "teacher": "the teacher"}
    words["judge"] = "the judge"
    figures = ", ".join(f"{text} {found[name]:.3f}" for name, text in words.items())
    return f"Nats a token on {found['rows']} held-out rows: {figures}."


def place(row: dict) -> tuple:
    return row["u_law"] != "iid", row["steps"]


def heading(row: dict, unit: str = "") -> str:
    law = "" if row["u_law"] == "iid" else f", {row['u_law']}"
    return f"{row['steps']}{unit}{law}"


def difference(found: Sequence, unit: str = "%") -> str:
    """Write a difference with its interval: nats, or a change in percent."""
    mean, low, high, _ = found

    def show(x: float) -> str:
        return f"{x:+.3f}" if not unit else f"{x:+.0f}" if abs(x) >= 9.95 else f"{x:+.1f}"

    return show(mean) + unit + ("" if low is None else f" [{show(low)}, {show(high)}]")


def headline(rows: Sequence[dict]) -> list[str]:
    """Return sentences on MCD against its own teacher, bad news first."""
    lines = []
    mine = sorted((r for r in rows if r["method"] == MCD and "against" in r), key=place)
    for measure, words in SENTENCES.items():
        unit = "" if measure == "n_step_nelbo" else "%"
        found = [(row, row["against"].get(measure, {}).get("teacher")) for row in mine]
        verdicts = []
        for sign, verdict in WORSE.items():
            there = [
                f"{heading(row, ' steps')}: {difference(x, unit)}"
                for row, x in found
                if x and x[3] == sign
            ]
            verdicts += [f"{verdict} at {', '.join(there)}"] if there else []
        lines += [f"- MCD and {words}: {'; '.join(verdicts)}."] if verdicts else []
    changes = [
        f"{name} at {row['steps']} steps {difference(row['against']['perplexity']['iid'])}"
        for name in (TEACHER, MCD)
        for row in rows
        if row["method"] == name and "iid" in row.get("against", {}).get("perplexity", {})
    ]
    if changes:
        lines.append(f"- A lattice in the sampler changes perplexity: {', '.join(changes)}.")
    return lines


def number(x: float) -> str:
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}" if x >= 20 else f"{x:.2f}"


def level(row: dict) -> str:
    """Write perplexity (geometric mean over seeds), N-step NELBO, three entropies."""
    bound = f"{row['n_step_nelbo']:.3f}" if "n_step_nelbo" in row else GAP
    entropies = " / ".join(f"{row[name]:.2f}" for name in LEVELS[2:])
    return f"{number(row['perplexity'])}; {bound}; {entropies}"


def outcome(row: dict) -> str:
    found = row["against"].get(EQUAL, {})
    if "teacher" not in found:
        return GAP
    return f"{difference(found['teacher'])} {OUTCOMES[found.get('mcd', NONE)[3]]}".strip()


def matrix(rows: Sequence[dict], cell: Callable[[dict], str]) -> list[str]:
    """Return a table of methods by places; a row of gaps alone is left out."""
    places = {place(row): heading(row) for row in sorted(rows, key=place)}
    lines = ["| | " + " | ".join(places.values()) + " |", "| --- |" + " ---: |" * len(places)]
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = {place(row): cell(row) for row in rows if row["method"] == method}
        cells = [mine.get(at, GAP) for at in places]
        name = f"**{method}**" if method == MCD else method
        if set(cells) != {GAP}:
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def figure(rows: Sequence[dict], path: Path) -> None:
    """Draw perplexity over the entropy of a sample, a panel an exact language."""
    import matplotlib
    from matplotlib.figure import Figure

    parts = [part for part in EXACT if any(row["part"] == part for row in rows)]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "results"}):
        drawn = Figure(figsize=(7, 4.5 * len(parts)), layout="constrained")
        for part, ax in zip(parts, drawn.subplots(len(parts), squeeze=False).flat, strict=True):
            panel(ax, [row for row in rows if row["part"] == part])
            ax.set_title(TITLES[part])
        drawn.savefig(path, format="svg", metadata={"Date": None})


def panel(ax, rows: Sequence[dict]) -> None:
    """Draw one language: the teacher's temperatures as a curve, the main methods by name."""
    here = [r for r in rows if (r["round"], r["u_law"]) == (None, "iid")]
    measured = {r["steps"] for r in here}
    steps = STEPS if STEPS in measured else max(measured)
    here = [r for r in here if r["steps"] == steps]
    main = {m.name for m in METHODS if m.main}
    mine = [r for r in here if r["method"] in FRONTIER]
    curve = sorted((r["entropy"], r["perplexity"]) for r in mine)
    temperatures = [KNOWN[r["method"]].temperatures[0] for r in mine]
    label = f"teacher, T from {min(temperatures):g} to {max(temperatures):g}"
    ax.plot(*zip(*curve, strict=True), "o-", color="0.5", label=label)
    for r in here:
        if r["method"] in main and r["method"] not in FRONTIER:
            at = r["entropy"], r["perplexity"]
            ax.plot(*at, "D" if r["method"] == MCD else "o", color="C1")
            ax.annotate(r["method"], at, xytext=(4, 3), textcoords="offset points", fontsize=8)
    ax.set(xlabel="entropy of a sample, nats", ylabel=f"perplexity, {steps} steps")
    ax.set_yscale("log")
    ax.margins(x=0.15)
    ax.legend()
