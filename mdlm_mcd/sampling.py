"""Samplers as pure functions of a denoiser, with a callback; no trainer, no config.

`denoise(z, rows) -> logits` is all a sampler asks of a model: z is (batch, length)
token ids, `rows` a boolean mask of the same shape, and the answer (rows.sum(),
vocab) raw logits. A model that is not told the time fits (MDLM and its students).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .coupling import Alpha
from .errors import ConfigError
from .losses import NEG_INFINITY

Denoise = Callable[[Tensor, Tensor], Tensor]


class Sample(NamedTuple):
    """tokens: (batch, length) ids without masks; evaluations: network calls made."""

    tokens: Tensor
    evaluations: int


def probabilities(logits, mask_index, *, dtype, temperature=1.0, top_p=1.0) -> Tensor:
    """SUBS, temperature and nucleus: (rows, vocab) logits -> probabilities in dtype."""
    logits = logits.to(dtype) / temperature
    logits[:, mask_index] = NEG_INFINITY
    p = logits.softmax(-1)
    if top_p < 1.0:
        ordered, index = p.sort(dim=-1, descending=True)
        # The token that crosses top_p stays, so at least one always does.
        ordered[ordered.cumsum(-1) - ordered >= top_p] = 0.0
        p = torch.zeros_like(p).scatter(-1, index, ordered)
        p = p / p.sum(-1, keepdim=True)
    return p


def categorical(p: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw from p (rows, vocab) by the exponential race, in p's precision."""
    race = torch.empty_like(p).exponential_(generator=generator)
    return (p / race).argmax(-1)


class Predictor:
    """p(x0 | z) at chosen rows, and how often the network was asked for it."""

    def __init__(self, denoise: Denoise, **how):
        self.denoise, self.how, self.evaluations = denoise, how, 0

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        self.evaluations += 1
        return probabilities(self.denoise(z, rows), **self.how)


def ancestral(predict, z, alphas, mask_index, generator, callback):
    """Eq. 6: z_s ~ q(z_s | z_t, x0 = x_theta(z_t)), step by step; the reference.

    A masked token opens at the step t -> s with probability
    (alpha_s - alpha_t) / (1 - alpha_t), and is then drawn from the prediction. The
    prediction is kept while z does not change, as the hosts' `ancestral_cache` does.
    """
    p = None
    for step, (alpha_t, alpha_s) in enumerate(itertools.pairwise(alphas)):
        rows = z == mask_index
        if not rows.any():
            break
        p = predict(z, rows) if p is None else p
        opens = (alpha_s - alpha_t) / (1.0 - alpha_t)
        posterior = opens * p
        posterior[:, mask_index] = 1.0 - opens
        drawn = categorical(posterior, generator)
        if (drawn != mask_index).any():
            z = z.masked_scatter(rows, drawn)
            p = None
        if callback is not None:
            callback(step, z)
    return z


def sparse(predict, z, alphas, mask_index, generator, callback):
    """The same law as `ancestral`, for the price of the tokens that open.

    A coin decides which masked tokens open now; only they are projected and drawn.
    """
    for step, (alpha_t, alpha_s) in enumerate(itertools.pairwise(alphas)):
        opens = (alpha_s - alpha_t) / (1.0 - alpha_t)
        coin = torch.rand(
            z.shape, generator=generator, dtype=torch.float64, device=z.device
        )
        rows = (z == mask_index) & (coin < opens)
        if rows.any():
            z = z.masked_scatter(rows, categorical(predict(z, rows), generator))
        if callback is not None:
            callback(step, z)
    return z


SAMPLERS = {"ancestral": ancestral, "sparse": sparse}


@torch.no_grad()
def sample(
    name: str,
    denoise: Denoise,
    batch: int,
    length: int,
    steps: int,
    *,
    alpha: Alpha,
    mask_index: int,
    vocab_size: int,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
    temperature: float = 1.0,
    top_p: float = 1.0,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Sample:
    """Generate (batch, length) tokens from all masks in `steps` equal steps of time.

    alpha: the signal schedule; a token still masked at the last step opens there.
    generator: also decides the device. dtype: precision of the draws; float32 acts
    like a lower temperature and is here to reproduce old figures. callback(step, z)
    sees each intermediate state.

    Raises ConfigError for an unknown sampler or settings out of range.
    """
    if name not in SAMPLERS:
        raise ConfigError(
            f"sampler={name} is unknown: choose one of {', '.join(SAMPLERS)}."
        )
    if steps < 1:
        raise ConfigError(f"steps={steps} must be at least 1.")
    if temperature <= 0 or not 0 < top_p <= 1:
        raise ConfigError(
            f"temperature={temperature} must be positive and top_p={top_p} within "
            "(0, 1]."
        )
    if not 0 <= mask_index < vocab_size:
        raise ConfigError(
            f"mask_index={mask_index} is none of the {vocab_size} tokens of the model."
        )
    device = generator.device if generator is not None else None
    z = torch.full((batch, length), mask_index, device=device)
    alphas = alpha(torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)).tolist()
    alphas[-1] = 1.0  # the last step opens what is left
    predict = Predictor(
        denoise, mask_index=mask_index, dtype=dtype, temperature=temperature,
        top_p=top_p,
    )  # fmt: skip
    tokens = SAMPLERS[name](predict, z, alphas, mask_index, generator, callback)
    return Sample(tokens, predict.evaluations)
