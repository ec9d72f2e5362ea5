"""What samples are worth: perplexity under a judge, with entropy beside it.

Perplexity alone rewards a model for being sharper; read it next to entropy.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..losses import subs_masked
from ..sampling import Denoise

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


@torch.no_grad()
def nelbo(
    denoise: Denoise,
    noise: Callable[[Tensor], tuple[Tensor, Tensor]],
    tokens: Tensor,
    mask_index: int,
    *,
    generator: torch.Generator | None = None,
    eps: float = 1e-3,
    batch_size: int = 64,
) -> float:
    """The continuous-time NELBO in nats per token, MDLM's bound.

    It rewards calibration: sharpening a calibrated model can only raise it.

    noise: t (batch,) -> (dalpha_t, alpha_t), as the hosts' schedules answer; one t in
    (eps, 1] a row of tokens (rows, length), stratified over the rows. With the same
    generator two models see the same masks, so their difference is the models'.
    """
    rows = len(tokens)
    t = (torch.rand(rows, generator=generator) + torch.arange(rows)) / rows
    dalpha_t, alpha_t = (a[:, None] for a in noise(eps + (1 - eps) * t))
    masked = torch.rand(tokens.shape, generator=generator) > alpha_t
    weight = (-dalpha_t / (1 - alpha_t)).expand_as(tokens)
    total = 0.0
    for part in torch.arange(rows).split(batch_size):
        x0, at = tokens[part], masked[part]
        log_p = subs_masked(denoise(torch.where(at, mask_index, x0), at), mask_index)
        nats = -log_p.gather(-1, x0[at][:, None]).squeeze(-1)
        total += float((nats * weight[part][at]).double().sum())
    return total / tokens.numel()
