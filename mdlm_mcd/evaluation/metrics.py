"""What samples are worth: perplexity under a judge, with entropy beside it.

Perplexity alone rewards a model for being sharper; read it next to entropy.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NLL = Callable[[Tensor], Tensor]
"""A judge: tokens (batch, length) -> nats of tokens 1.., (batch, length - 1)."""


def sample_entropy(tokens: Tensor) -> Tensor:
    """Entropy in nats of each sample's own unigrams: (batch, length) -> (batch,)."""
    out = []
    for sample in tokens:
        counts = torch.unique(sample, return_counts=True)[1].double()
        out.append(torch.special.entr(counts / counts.sum()).sum())
    return torch.stack(out)


def corpus_entropy(tokens: Tensor) -> float:
    """Entropy in nats of the pooled unigrams of all samples: diversity across them."""
    counts = torch.unique(tokens, return_counts=True)[1].double()
    return float(torch.special.entr(counts / counts.sum()).sum())


@torch.no_grad()
def perplexity(tokens: Tensor, judge: NLL, batch_size: int = 64) -> tuple[float, float]:
    """Generative perplexity and its standard error over samples.

    Every token but the first counts once; no partial batch is dropped. The error is
    that of the mean nll per sample, carried through exp.
    """
    nll = torch.cat([judge(part).double() for part in tokens.split(batch_size)])
    per_sample = nll.mean(-1)
    mean = per_sample.mean().exp()
    error = per_sample.std() / len(per_sample) ** 0.5 if len(per_sample) > 1 else 0.0
    return float(mean), float(mean * error)
