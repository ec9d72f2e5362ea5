"""Measure samples and held-out text as rows of results hold them; see docs/metrics.md."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..errors import ConfigError
from . import diversity, intervals
from .diversity import bigram_tv, sample_entropy
from .evaluators import Evaluator
from .intervals import Estimate, correlation


def _halves(samples: int, corpus: Tensor) -> tuple[Tensor, Tensor]:
    """Return two disjoint parts of the corpus: `samples` rows each, or a half."""
    rows = min(samples, len(corpus) // 2)
    if rows < 1:
        raise ConfigError(
            f"bigram_tv needs a corpus of at least 2 rows and has {len(corpus)}: give "
            "more held-out text."
        )
    return corpus[:rows], corpus[rows : 2 * rows]


def measure(
    samples: Tensor,
    *,
    evaluator: Evaluator | None = None,
    corpus_tokens: Tensor | None = None,
    eos: int | None = None,
    texts: tuple[list[str], list[str]] | None = None,
    seed: int = 0,
    resamples: int = intervals.RESAMPLES,
) -> dict[str, dict[str, Any]]:
    """Compute the metrics of samples alone, as a row of a results file holds them.

    samples: (samples, length) ids; corpus_tokens: (rows, length) held-out ids, of
    which at most as many rows are compared with, and at most half (the other half is
    `corpus_reference`'s). Leave evaluator, corpus_tokens or texts out and `perplexity`,
    `bigram_tv` or `mauve` is. eos: refuse samples of nothing but this id. texts:
    samples and held-out text, decoded.

    Return {name: {"value", "low", "high"}}; besides in entropy's and perplexity's `error`,
    the standard error (of the logarithm for perplexity), and in perplexity's
    `correlation`, that of the two errors; `n_step_nelbo` and `nelbo` are of a model
    and not of samples: `n_step_nelbo(...).estimate()._asdict()`.

    Raises ConfigError for fewer than two samples, fewer than four tokens a sample,
    all-EOS samples, or what the evaluator refuses.
    """
    if samples.ndim != 2 or len(samples) < 2 or samples.shape[1] < 4:
        raise ConfigError(
            f"metrics need at least 2 samples of 4 tokens and have "
            f"{tuple(samples.shape)}: raise num_samples or the length."
        )
    if eos is not None and bool((samples == eos).all()):
        raise ConfigError(
            f"all {len(samples)} samples are nothing but EOS ({eos}): look at the "
            "model and at sampling.steps."
        )
    how = {"seed": seed, "resamples": resamples}
    out: dict[str, Estimate] = {}
    scores, entropies = None, sample_entropy(samples)
    if evaluator is not None:
        scores = evaluator.nll(samples)
        out["perplexity"] = scores.estimate(intervals.perplexity, **how)
    out["entropy"] = intervals.mean(entropies, **how)
    out["corpus_entropy"] = diversity.pooled_entropy(samples)
    out["bigram_entropy"] = diversity.bigram_entropy(samples)
    if corpus_tokens is not None:
        half, _ = _halves(len(samples), corpus_tokens)
        out["bigram_tv"] = bigram_tv(samples[: len(half)], half)
    for n in (1, 2, 3):
        out[f"distinct_{n}"] = diversity.distinct(samples, n)
    out["self_bleu"] = intervals.mean(diversity.self_bleu(samples), **how)
    if texts is not None:
        out["mauve"] = Estimate(diversity.mauve(*texts))
    row = {name: figure._asdict() for name, figure in out.items()}
    row["entropy"]["error"] = float(entropies.std() / len(entropies) ** 0.5)
    if scores is not None:
        row["perplexity"]["correlation"] = correlation(scores, entropies)
        row["perplexity"]["error"] = scores.log_error
    return row


def corpus_reference(
    tokens: Tensor, evaluator: Evaluator | None = None, num_samples: int | None = None
) -> dict[str, float]:
    """Return what held-out text itself scores: the names of `measure`, plain numbers.

    tokens: (rows, length). num_samples: how many samples it is compared with, since pooled
    figures depend on their number, and are left out where it is larger than rows. `bigram_tv` is
    of one part of the corpus against another: what samples of the true law would score.
    Raises ConfigError as `measure`.
    """
    count = num_samples or len(tokens)
    halves, out = _halves(count, tokens), dict[str, float]()
    if count <= len(tokens):
        figures = measure(tokens[:count], resamples=1)
        out |= {name: figure["value"] for name, figure in figures.items()}
    out["entropy"] = float(sample_entropy(tokens).mean())
    if evaluator is not None:
        out["perplexity"] = evaluator.nll(tokens).perplexity
    out["bigram_tv"] = bigram_tv(*halves).value
    return out
