"""Tables and pictures of the demo's rows, arranged by `results`."""

from __future__ import annotations

import math
from pathlib import Path

from rich.table import Table

from ..errors import ConfigError
from ..evaluation.frontier import Place, at_equal, log_ratio_error


def require_matplotlib() -> None:
    """Raise ConfigError with the remedy when matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "The figure needs matplotlib, which is not installed: pip install 'mdlm-mcd[demo]'."
        ) from error


def results(rows: list[dict]) -> dict:
    """Arrange a sweep's rows, the teacher's first, as `results.json` holds them."""
    first = rows[0]
    models: dict[str, dict] = {}
    for row in rows:
        t, found = row["temperature"], row["metrics"]
        name = row["model"] if t == 1 else f"{row['model']}, T = {t:g}"
        model = models.setdefault(
            name,
            {
                "checkpoint": row["checkpoint"],
                "sha256": row["sha256"],
                "temperature": t,
                "nelbo": found["nelbo"]["value"],
                "steps": {},
            },
        )
        ppl, entropy = found["perplexity"], found["entropy"]
        model["steps"][str(row["steps"])] = {
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
    return list(next(iter(results["models"].values()))["steps"])


def _caption(results) -> str:
    how, corpus = results["sampling"], results["corpus"]
    return (
        f"by sampling steps: perplexity under a left-to-right evaluator / unigram "
        f"entropy of a sample in nats; {how['samples']} samples of {how['length']} "
        f"tokens, drawn in {how['dtype']}; held-out text: "
        f"{_figure(corpus['perplexity'])} / {corpus['entropy']:.2f}"
    )


def _figure(x: float) -> str:
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}"


def _rows(results, between: str):
    for name, model in results["models"].items():
        cells = model["steps"].values()
        yield (
            name,
            f"{model['nelbo']:.3f}",
            *(_figure(c["perplexity"]) + between + f"{c['entropy']:.2f}" for c in cells),
        )


def table(results) -> Table:
    """Return for the terminal: perplexity, and under it entropy."""
    out = Table(caption=_caption(results), caption_justify="left")
    for i, title in enumerate(["", "NELBO", *_columns(results)]):
        out.add_column(title, justify="right" if i else "left", no_wrap=True)
    for row in _rows(results, "\n"):
        out.add_row(*row)
    return out


def markdown(results) -> str:
    """Return the same table, and how to read it."""
    header = ["", "NELBO", *(f"{n} steps" for n in _columns(results))]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *_rows(results, " / ")]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    parts = [text, _caption(results) + ".", reading(results), _provenance(results)]
    return "\n\n".join(parts) + "\n"


def _provenance(results) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    machine = results["machine"]
    return (
        f"Recipe `{results['recipe']['name']}`, seed {results['seed']}, "
        f"{machine['device']} with {machine['threads']} threads; {versions}."
    )


def _place(cell: dict) -> Place:
    return Place(
        cell["entropy"],
        cell["perplexity"],
        cell["entropy_error"],
        cell["perplexity_error"] / cell["perplexity"],
        cell["correlation"],
    )


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
    models = results["models"]
    names, columns = list(models), _columns(results)
    teacher, student = models["teacher"], models[names[-1]]
    few = "8" if "8" in columns else columns[0]
    here = student["steps"][few]
    faster = [n for n in columns if teacher["steps"][n]["perplexity"] >= here["perplexity"]]
    parts = []
    if faster and int(faster[-1]) > int(few):
        slow = teacher["steps"][faster[-1]]
        parts.append(
            f"{names[-1]} at {few} steps ({here['perplexity']:.1f}) is at or below the "
            f"teacher at {faster[-1]} ({slow['perplexity']:.1f}), at an entropy of "
            f"{here['entropy']:.2f} against {slow['entropy']:.2f} nats."
        )
    else:
        parts.append(
            f"{names[-1]} at {few} steps ({here['perplexity']:.1f}) does not reach the "
            "teacher at more steps."
        )
    sharp = next(n for n in names if n.startswith("teacher, T"))
    # The plain teacher and the tempered one span a line of perplexity over entropy.
    cells = [m["steps"][few] for m in (teacher, models[sharp])]
    line = [[cell[key] for cell in cells] for key in ("entropy", "perplexity")]
    for name in names[2:][::-1]:
        cell = models[name]["steps"][few]
        matched = at_equal(*line, cell["entropy"])
        if matched is not None:
            parts.append(
                f"At the entropy of {name} ({cell['entropy']:.2f} nats, {few} steps) a "
                f"teacher that is only sampled at a lower temperature scores "
                f"{matched:.1f} against the student's {cell['perplexity']:.1f}: "
                f"{_verdict(matched, cell, cells)}."
            )
            break
    else:
        parts.append(
            "No student's entropy lies between the teacher's and the tempered "
            "teacher's, so they are not compared at equal entropy."
        )
    drift = student["nelbo"] - teacher["nelbo"]
    parts.append(
        f"The NELBO, which does not reward sharpness, goes from {teacher['nelbo']:.3f} "
        f"(teacher) to {student['nelbo']:.3f} ({names[-1]})"
        + (
            ": part of the gain may be further training of a teacher that was not done."
            if drift < -0.005
            else "."
        )
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
            out.append(
                f"=== {name}, {n} steps (perplexity {cell['perplexity']:.1f}, entropy "
                f"{cell['entropy']:.2f} nats)\n"
            )
            out += [f"{text}\n---" for text in cell["texts"]]
    return "\n".join(out) + "\n"


def perplexity_vs_steps(results, path: Path) -> None:
    """Draw the paper's Figure 3, with the entropy it leaves out beside it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps = [int(n) for n in _columns(results)]
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    oranges = pyplot.get_cmap("Oranges")
    students = [n for n in results["models"] if not n.startswith("teacher")]
    for name, model in results["models"].items():
        cells = list(model["steps"].values())
        if name in students:
            shade = 0.35 + 0.6 * (students.index(name) + 1) / len(students)
            style = dict(color=oranges(shade), marker="o")
        else:
            plain = model["temperature"] == 1.0
            style = dict(
                color="#5b7083", marker="s" if plain else "v", linestyle="-" if plain else "--"
            )
        axes[0].errorbar(
            steps,
            [c["perplexity"] for c in cells],
            yerr=[c["perplexity_error"] for c in cells],
            label=name,
            capsize=2,
            **style,
        )
        axes[1].plot(steps, [c["entropy"] for c in cells], label=name, **style)
    for axis, key, title in (
        (axes[0], "perplexity", "generative perplexity (evaluator: AR)"),
        (axes[1], "entropy", "unigram entropy of a sample (nats)"),
    ):
        axis.axhline(results["corpus"][key], color="black", lw=1, ls=":", label="held-out text")
        axis.set_xscale("log", base=2)
        axis.set_xticks(steps, [str(n) for n in steps])
        axis.set_xlabel("sampling steps")
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.25)
    axes[0].set_yscale("log")
    for which in ("major", "minor"):
        axes[0].tick_params(axis="y", which=which, labelsize=8)
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].yaxis.set_minor_formatter("{x:g}")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside right center")
    how = results["sampling"]
    figure.suptitle(
        f"MCD on a laptop: {how['samples']} samples of {how['length']} tokens, drawn "
        f"in {how['dtype']}; bars: one standard error",
        fontsize=10,
    )
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
