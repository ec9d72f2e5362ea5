"""Tables and pictures of the demo's rows, arranged by `results`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from ..evaluation.frontier import Place, at_equal, log_ratio_error


def results(rows: list[dict]) -> dict:
    """Arrange a sweep's rows, the teacher's first, as `results.json` has them."""
    first, models = rows[0], {}
    for row in rows:
        t, found = row["temperature"], row["metrics"]
        ppl, entropy = found["perplexity"], found["entropy"]
        name = row["model"] if t == 1 else f"{row['model']}, T = {t:g}"
        model = {
            "checkpoint": row["checkpoint"],
            "sha256": row["sha256"],
            "temperature": t,
            "nelbo": found["nelbo"]["value"],
            "steps": {},
        }
        models.setdefault(name, model)["steps"][str(row["steps"])] = {
            "perplexity": ppl["value"],
            "perplexity_error": ppl["value"] * ppl["error"],
            "entropy": entropy["value"],
            "entropy_error": entropy["error"],
            "correlation": ppl["correlation"],
            "pooled_entropy": found["corpus_entropy"]["value"],
            "evaluations": row["evaluations"],
            "seconds": row["seconds"],
            "texts": row["texts"][:2],
            "n_step_nelbo": found["n_step_nelbo"],
        }
    return {
        "versions": first["versions"],
        "machine": first["machine"],
        "sampling": {
            "sampler": first["sampler"],
            "dtype": first["dtype"],
            "samples": first["num_samples"],
            "length": first["length"],
            "judge": "AR model of the minihost, trained on the training split",
        },
        "corpus": {
            "perplexity": first["corpus"]["perplexity"],
            "entropy": first["corpus"]["entropy"],
            "pooled_entropy": first["corpus"]["corpus_entropy"],
        },
        "models": models,
    }


def _columns(results) -> list[str]:
    """Return the numbers of steps, few to many."""
    return list(results["models"]["teacher"]["steps"])


def _caption(results) -> str:
    how, corpus = results["sampling"], results["corpus"]
    return (
        f"by sampling steps: perplexity under a left-to-right evaluator / unigram "
        f"entropy of a sample in nats; {how['samples']} samples of {how['length']} "
        f"tokens, drawn in {how['dtype']}; held-out text: {_cell(corpus, ' / ')}"
    )


def _cell(figures: dict, between: str) -> str:
    x = figures["perplexity"]
    shown = f"{x:.0f}" if x >= 100 else f"{x:.1f}"
    return f"{shown}{between}{figures['entropy']:.2f}"


def _rows(results, between: str) -> Iterator[tuple[str, ...]]:
    for name, model in results["models"].items():
        cells = (_cell(cell, between) for cell in model["steps"].values())
        yield name, f"{model['nelbo']:.3f}", *cells


def table(results) -> Table:
    """Return for the terminal: perplexity, and under it entropy."""
    out = Table(caption=_caption(results), caption_justify="left")
    out.add_column("", no_wrap=True)
    for title in ("NELBO", *_columns(results)):
        out.add_column(title, justify="right", no_wrap=True)
    for row in _rows(results, "\n"):
        out.add_row(*row)
    return out


def markdown(results) -> str:
    """Return the same table, how to read it, and what made it."""
    header = ["", "NELBO", *(f"{n} steps" for n in _columns(results))]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *_rows(results, " / ")]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    machine = results["machine"]
    made = (
        f"Recipe `{results['recipe']['name']}`, seed {results['seed']}, "
        f"{machine['device']} with {machine['threads']} threads; {versions}."
    )
    return "\n\n".join([text, _caption(results) + ".", reading(results), made]) + "\n"


def _place(cell: dict) -> Place:
    y = cell["perplexity"]
    errors = cell["entropy_error"], cell["perplexity_error"] / y
    return Place(cell["entropy"], y, *errors, cell["correlation"])


def _verdict(matched: float, student: dict, line: list[dict]) -> str:
    """Return who wins at equal entropy, if by more than two standard errors."""
    ratio = matched / student["perplexity"]
    error = log_ratio_error(_place(student), [_place(cell) for cell in line])
    if abs(math.log(ratio)) <= 2 * error:
        return f"a tie within two standard errors ({ratio - 1:+.0%})"
    winner = "the student" if ratio > 1 else "the tempered teacher"
    return f"{winner} wins by {abs(ratio - 1):.0%}"


def reading(results) -> str:
    """Return what the figures say, in sentences made from them."""
    models, columns = results["models"], _columns(results)
    teacher, tempered, *names = models
    few = "8" if "8" in columns else columns[0]
    last = names[-1]
    here, at_teacher = models[last]["steps"][few], models[teacher]["steps"]
    slow = [n for n in columns if at_teacher[n]["perplexity"] >= here["perplexity"]][-1:]
    start = f"{last} at {few} steps ({here['perplexity']:.1f})"
    parts = [f"{start} does not reach the teacher at more steps."]
    if slow and int(slow[0]) > int(few):
        there = at_teacher[slow[0]]
        parts = [
            f"{start} is at or below the teacher at {slow[0]} ({there['perplexity']:.1f}), at an "
            f"entropy of {here['entropy']:.2f} against {there['entropy']:.2f} nats."
        ]
    # The plain teacher and the tempered one span a line of perplexity over entropy.
    line = [models[name]["steps"][few] for name in (teacher, tempered)]
    entropies, perplexities = ([cell[k] for cell in line] for k in ("entropy", "perplexity"))
    for name in reversed(names):
        cell = models[name]["steps"][few]
        matched = at_equal(entropies, perplexities, cell["entropy"])
        if matched is not None:
            parts.append(
                f"At the entropy of {name} ({cell['entropy']:.2f} nats, {few} steps) a "
                f"teacher that is only sampled at a lower temperature scores "
                f"{matched:.1f} against the student's {cell['perplexity']:.1f}: "
                f"{_verdict(matched, cell, line)}."
            )
            break
    else:
        parts.append(
            "No student's entropy lies between the teacher's and the tempered "
            "teacher's, so they are not compared at equal entropy."
        )
    before, after = models[teacher]["nelbo"], models[last]["nelbo"]
    further = ": part of the gain may be further training of a teacher that was not done"
    parts.append(
        f"The NELBO, which does not reward sharpness, goes from {before:.3f} (teacher) to "
        f"{after:.3f} ({last}){further * (after < before - 0.005)}."
    )
    return " ".join(parts)


def samples(results) -> str:
    """Return two samples a model at the fewest, at 8 and at the most steps."""
    columns = _columns(results)
    chosen = dict.fromkeys([columns[0], "8" if "8" in columns else columns[0], columns[-1]])
    out = []
    for name, model in results["models"].items():
        for n in chosen:
            cell = model["steps"][n]
            figures = f"perplexity {cell['perplexity']:.1f}, entropy {cell['entropy']:.2f} nats"
            out.append(f"=== {name}, {n} steps ({figures})\n")
            out += [f"{text}\n---" for text in cell["texts"]]
    return "\n".join(out) + "\n"


def perplexity_vs_steps(results, path: Path) -> None:
    """Draw the paper's Figure 3, with the entropy it leaves out beside it."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    columns = _columns(results)
    steps = [int(n) for n in columns]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    teacher, tempered, *students = results["models"]
    look = {
        teacher: dict(color="#5b7083", marker="s", linestyle="-"),
        tempered: dict(color="#5b7083", marker="v", linestyle="--"),
    }
    for i, name in enumerate(students, 1):
        look[name] = dict(color=colormaps["Oranges"](0.35 + 0.6 * i / len(students)), marker="o")
    for name, model in results["models"].items():
        cells = model["steps"].values()
        y, error, entropy = (
            [c[k] for c in cells] for k in ("perplexity", "perplexity_error", "entropy")
        )
        left.errorbar(steps, y, yerr=error, label=name, capsize=2, **look[name])
        right.plot(steps, entropy, **look[name])
    for axis, key, title in (
        (left, "perplexity", "generative perplexity (evaluator: AR)"),
        (right, "entropy", "unigram entropy of a sample (nats)"),
    ):
        axis.axhline(results["corpus"][key], color="black", lw=1, ls=":", label="held-out text")
        axis.set_xscale("log", base=2)
        axis.set_xticks(steps, columns)
        axis.set_xlabel("sampling steps")
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.25)
    left.set_yscale("log")
    left.tick_params(axis="y", which="both", labelsize=8)
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter("{x:g}")
    figure.legend(*left.get_legend_handles_labels(), fontsize=8, loc="outside right center")
    how = results["sampling"]
    figure.suptitle(
        f"MCD on a laptop: {how['samples']} samples of {how['length']} tokens, drawn "
        f"in {how['dtype']}; bars: one standard error",
        fontsize=10,
    )
    figure.savefig(path, dpi=130)
