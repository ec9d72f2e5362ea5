"""Rows of a sweep that never ran: what the report's tests read."""

import hashlib
import json


def estimate(value, share=0.02):
    return {"value": value, "low": value * (1 - share), "high": value * (1 + share)}


def row(model="teacher", steps=8, temperature=1.0, **changes):
    """One row in the schema; perplexity falls with steps, temperature and rounds."""
    k = int(model[-1]) if model[-1].isdigit() else 0
    perplexity = (150 + 1400 / steps) * (1 - 0.09 * k) * 13.5 ** (temperature - 1)
    entropy = 3.92 - 0.55 * (1 - temperature) - 0.02 * k - 0.3 / steps
    made = {
        "schema": 1,
        "model": model,
        "checkpoint": f"round-{k}.ckpt",
        "sha256": hashlib.sha256(repr(model).encode()).hexdigest(),
        "algo": "mcd" if k else "mdlm",
        "loss": "hybrid" if k else None,
        "round": k or None,
        "recipe": {"name": "laptop"},
        "teacher": "teacher" if k else None,
        "host": "minihost",
        "commit": "abc1234",
        "versions": {"torch": "2.13.0"},
        "machine": {"device": "cpu"},
        "sampler": "locked",
        "u_law": "iid",
        "u_step": None,
        "steps": steps,
        "temperature": temperature,
        "top_p": 1.0,
        "dtype": "float64",
        "seed": 1,
        "num_samples": 1024,
        "length": 64,
        "evaluator": "minihost AR",
        "seconds": 1.25,
        "evaluations": steps,
        "metrics": {
            "n_step_nelbo": estimate(3.9 + 3.2 / steps - 0.02 * k, 0.004),
            "nelbo": estimate(4.297 + 0.01 * k, 0.003),
            "perplexity": estimate(perplexity, 0.03),
            "entropy": estimate(entropy, 0.003),
            "corpus_entropy": estimate(5.9 - 0.1 * k),
            "bigram_tv": estimate(0.3 + 0.02 * k),
            "distinct_2": estimate(0.5),
            "self_bleu": {"value": 0.2, "low": None, "high": None},
        },
        "corpus": {"perplexity": 57.4, "entropy": 3.73, "corpus_entropy": 5.56},
        "texts": [f"the first of {model} at {steps}", f"a second of {model}"],
    }
    made.update(changes)
    return made


def sweep(
    models=("teacher", "MCD round 1", "MCD round 2"),
    steps=(4, 8, 16),
    temperatures=(1.0, 0.9, 0.8),
    **changes,
):
    return [row(m, n, t, **changes) for m in models for n in steps for t in temperatures]


def write(path, rows, tail=""):
    lines = [json.dumps(r, ensure_ascii=True) for r in rows]
    path.write_text("\n".join(lines) + "\n" + tail, "utf-8")
    return path
