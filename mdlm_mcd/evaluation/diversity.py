"""Measure diversity of samples, by sample and pooled, or against a corpus.

Every function takes ids (samples, length) and counts n-grams within a sample. Counts
are kept for the n-grams that occur, so nothing has the size of vocab ** n.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError, border
from .intervals import Estimate, jackknife

MAUVE_SAMPLES = 100


def sample_entropy(tokens: Tensor) -> Tensor:
    """Return the entropy of each sample's own unigrams, nats: (batch, length) -> (batch,)."""
    out = []
    for sample in tokens:
        counts = torch.unique(sample, return_counts=True)[1].double()
        out.append(torch.special.entr(counts / counts.sum()).sum())
    return torch.stack(out)


def _ngrams(tokens: Tensor, n: int) -> Tensor:
    """Number the n-grams from 0: (samples, length) -> (samples, length - n + 1).

    Longer ones are numbered from the numbers of shorter ones, so no key outgrows int64.
    """
    first = torch.unique(tokens.cpu(), return_inverse=True)[1]
    base, out = int(first.max()) + 1, first
    for k in range(1, n):
        out = torch.unique(out[:, :-1] * base + first[:, k:], return_inverse=True)[1]
    return out


class _Counts(NamedTuple):
    """How often each n-gram occurs, pooled and by sample (sparse triples)."""

    pooled: Tensor  # (grams,)
    sample: Tensor  # (pairs,) of the triples (sample, gram, own)
    gram: Tensor
    own: Tensor
    sizes: Tensor  # (samples,) n-grams of each

    @property
    def total(self) -> Tensor:
        return self.sizes.sum()

    @property
    def rest(self) -> Tensor:
        """Return (samples,): n-grams of all samples but this."""
        return self.total - self.sizes

    def by_sample(self, values: Tensor) -> Tensor:
        """Sum over each sample's own n-grams: (pairs,) -> (samples,)."""
        out = torch.zeros(len(self.sizes), dtype=values.dtype)
        return out.index_add_(0, self.sample, values)


def _count(gram: Tensor, sample: Tensor, samples: int, grams: int) -> _Counts:
    """Count from (occurrences,): the number of each n-gram and of its sample."""
    keys, count = torch.unique(sample * grams + gram, return_counts=True)
    pooled = torch.bincount(gram, minlength=grams).double()
    sizes = torch.bincount(sample, minlength=samples).double()
    return _Counts(pooled, keys // grams, keys % grams, count.double(), sizes)


def _count_rows(tokens: Tensor, n: int) -> _Counts:
    ids = _ngrams(tokens, n)
    rows = torch.arange(len(ids))[:, None].expand_as(ids)
    return _count(ids.flatten(), rows.flatten(), len(ids), int(ids.max()) + 1)


def _entropy(counts: _Counts) -> tuple[Tensor, Tensor]:
    """Return the entropy of the pooled counts, and (samples,) of it without each sample."""
    c = counts.pooled[counts.gram]
    left = c - counts.own
    total = torch.xlogy(counts.pooled, counts.pooled).sum()
    change = counts.by_sample(torch.xlogy(left, left) - torch.xlogy(c, c))
    whole = counts.total.log() - total / counts.total
    return whole, counts.rest.log() - (total + change) / counts.rest


def pooled_entropy(tokens: Tensor) -> Estimate:
    """Return the entropy of the pooled unigrams, nats."""
    return jackknife(*_entropy(_count_rows(tokens, 1)))


def bigram_entropy(tokens: Tensor) -> Estimate:
    """Return H(x_{i+1} | x_i) of the pooled bigrams, nats: H(bigram) - H(its first token).

    Plug-in, so low by about (distinct bigrams - distinct tokens) / (2 * bigrams).
    """
    both, without_both = _entropy(_count_rows(tokens, 2))
    first, without_first = _entropy(_count_rows(tokens[:, :-1], 1))
    return jackknife(both - first, without_both - without_first)


def bigram_tv(tokens: Tensor, corpus: Tensor) -> Estimate:
    """Return the total variation in [0, 1] between the bigram laws of samples and corpus.

    Both sides are cut to the same number of bigrams, since two finite draws of one law are
    already apart (`metrics.corpus_reference`). The interval is of the samples alone.
    """
    tokens, corpus = tokens.cpu(), corpus.cpu()
    vocab = int(max(tokens.max(), corpus.max())) + 1
    keys = [(t[:, :-1] * vocab + t[:, 1:]).flatten() for t in (tokens, corpus)]
    most = min(map(len, keys))
    names, ids = torch.unique(torch.cat([k[:most] for k in keys]), return_inverse=True)
    sample = torch.arange(most) // (tokens.shape[1] - 1)
    counts = _count(ids[:most], sample, int(sample[-1]) + 1, len(names))
    q = torch.bincount(ids[most:], minlength=len(names)).double() / most

    def apart(c: Tensor, size: Tensor | float, q: Tensor) -> Tensor:
        return (c / size - q).abs() / 2

    # Samples are of one length, but for the last, which may be cut: few sizes.
    sizes, which = counts.rest.unique(return_inverse=True)
    without = torch.stack([apart(counts.pooled, s, q).sum() for s in sizes])[which]
    c, size_of, q_of = counts.pooled[counts.gram], counts.rest[counts.sample], q[counts.gram]
    change = apart(c - counts.own, size_of, q_of) - apart(c, size_of, q_of)
    value = apart(counts.pooled, counts.total, q).sum()
    return jackknife(value, without + counts.by_sample(change))


def distinct(tokens: Tensor, n: int) -> Estimate:
    """Return distinct-n: different n-grams over all n-grams, pooled."""
    counts = _count_rows(tokens, n)
    different = len(counts.pooled)
    own = counts.by_sample((counts.pooled[counts.gram] == counts.own).double())
    return jackknife(different / float(counts.total), (different - own) / counts.rest)


def self_bleu(tokens: Tensor, order: int = 4) -> Tensor:
    """Return BLEU of each sample against all others: (samples, length) -> (samples,).

    Zhu et al. 2018 (arXiv 1802.01886), on token ids: geometric mean of the clipped n-gram
    precisions up to `order`, no brevity penalty as all samples are of one length, and 0.1
    matches where there are none. Exact in one pass: the clip of an n-gram, its highest
    count in another sample, needs only the two highest counts.
    """
    log_precision = torch.zeros(len(tokens), dtype=torch.float64)
    for n in range(1, order + 1):
        counts = _count_rows(tokens, n)
        gram, count, none = counts.gram, counts.own, torch.zeros_like(counts.pooled)
        highest = none.scatter_reduce(0, gram, count, "amax")
        tops = count == highest[gram]
        alone = tops & (torch.bincount(gram[tops])[gram] == 1)
        second = none.scatter_reduce(0, gram[~alone], count[~alone], "amax")
        clipped = torch.where(alone, second[gram].minimum(count), count)
        matched = counts.by_sample(clipped)
        log_precision += (matched.where(matched > 0, 0.1) / counts.sizes).log()
    return (log_precision / order).exp()


def require_mauve(texts: int) -> Any:
    """Return `mauve.compute_mauve`; raise ConfigError without its package or with few texts."""
    if texts < MAUVE_SAMPLES:
        raise ConfigError(
            f"mauve needs at least {MAUVE_SAMPLES} texts on both sides and has "
            f"{texts}: raise num_samples (its authors advise thousands), or give more text."
        )
    with border("mauve needs the package mauve-text", "pip install 'mdlm-mcd[mauve]'"):
        from mauve import compute_mauve
    return compute_mauve


def mauve(samples: Sequence[str], corpus: Sequence[str]) -> float:
    """Return MAUVE (Pillutla et al. 2021, arXiv 2102.01454) by the package `mauve-text`.

    Raises ConfigError as `require_mauve`.
    """
    how = {"p_text": list(samples), "q_text": list(corpus), "verbose": False}
    return float(require_mauve(min(len(samples), len(corpus)))(**how).mauve)
