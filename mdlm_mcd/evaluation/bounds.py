"""Bound -log p of held-out text: no evaluator, and no gain by sharpening.

The N-step sampler draws u and opens token i at the first step k whose level, alpha_k
rescaled to 0 at t = 1 where all is masked, exceeds u_i. The tokens of a step it draws
independently, given those opened before. So

    p_N(x0) = E_u prod_k prod_{i opens at k} p(x0_i | x0 opened before k),

and by Jensen -log p_N(x0) is at most the mean over u of the cross-entropies that
`n_step_nelbo` adds up. That is the sampler's own N and its own law of u; as N grows
with iid u it becomes the continuous-time bound, `nelbo`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..coupling import Alpha, draw_u
from ..errors import ConfigError
from ..losses import subs_masked, temper
from ..sampling.chain import (
    Denoise,
    Temperature,
    alpha_at,
    levels_of,
    logits_at,
    opening_steps,
    temperature_path,
)
from .intervals import Scores, finite


def check(tokens: Tensor, mask_index: int) -> None:
    """Raise ConfigError for held-out tokens with masks among them."""
    if (tokens == mask_index).any():
        raise ConfigError(
            f"held-out tokens hold mask_index={mask_index}, which no model predicts: "
            "give text without masks."
        )


# Tokens projected onto the vocabulary at once: 1.5 GiB of logits at 50,258 tokens.
PROJECTED = 8192


def _nats(
    denoise: Denoise,
    x0: Tensor,
    masked: Tensor,
    rows: Tensor,
    mask_index: int,
    temperature: float,
    alpha_t: Tensor,
) -> Tensor:
    """Return -log p(x0 | the tokens not masked) at `rows`: (rows.sum(),), in their order.

    alpha_t: (len(x0),), for a time-conditioned network.
    """
    nats = []
    for part in _parts(rows.sum(-1).tolist(), PROJECTED):
        z, at = torch.where(masked[part], mask_index, x0[part]), rows[part]
        logits = logits_at(denoise, z, at, alpha_t[part])
        log_p = subs_masked(temper(logits, temperature), mask_index)
        nats.append(-log_p.gather(-1, x0[part][at][:, None]).squeeze(-1))
    return torch.cat(nats)


def _parts(counts: Sequence[int], most: int) -> list[slice]:
    """Return neighbouring sequences of at most so many tokens together, or one sequence."""
    parts, start, total = [], 0, 0
    for i, count in enumerate(counts):
        if i > start and total + count > most:
            parts.append(slice(start, i))
            start, total = i, 0
        total += count
    return [*parts, slice(start, len(counts))]


@torch.no_grad()
def n_step_nelbo(
    denoise: Denoise,
    tokens: Tensor,
    steps: int,
    *,
    alpha: Alpha,
    mask_index: int,
    schedule: str | Sequence[float] | None = None,
    u_law: str = "iid",
    u_step: float | None = None,
    generator: torch.Generator | None = None,
    temperature: Temperature = 1.0,
    batch_size: int = 64,
    free: Tensor | None = None,
    **law: Any,
) -> Scores:
    """Estimate the N-step NELBO: what each of N steps opens, given the truth before it.

    Unbiased over u, for any sampler that opens by u (module docstring). A time-conditioned
    network is called at the times of the steps. At most `steps` network passes a row.

    tokens: (rows, length) held-out ids, rows that are independent. free: (rows, length) bool on
    the CPU; the others are given, and cost nothing.
    schedule, temperature: as in `sampling.sample`; log-probabilities are renormalised.
    generator: on the CPU; with the same seed two models see the same masks.
    law: further keywords of `coupling.draw_u`.

    Raises ConfigError for settings out of range, tokens with mask_index among them, or
    nats that are not finite.
    """
    check(tokens, mask_index)
    if steps < 1:
        raise ConfigError(f"steps={steps} must be at least 1.")
    levels = levels_of(alpha, steps, schedule)
    rows, length = tokens.shape
    u = draw_u(rows, length, u_law, step=u_step, generator=generator, free=free, **law)
    order = opening_steps(u, levels)
    order = order if free is None else order.masked_fill(~free, -1)
    how = dict[str, Any](alpha=alpha, mask_index=mask_index)
    how |= dict(temperature=temperature, batch_size=batch_size)
    return along(denoise, tokens, order, levels, **how)


def along(
    denoise: Denoise,
    tokens: Tensor,
    order: Tensor,
    levels: Sequence[float],
    *,
    alpha: Alpha,
    mask_index: int,
    temperature: Temperature = 1.0,
    batch_size: int = 64,
) -> Scores:
    """Return what tokens (rows, length) cost where each opens at its step of `order`.

    order: (rows, length), steps from 0, before which tokens are given; levels: as `levels_of`.
    """
    at = temperature_path(temperature)
    temperatures = [at(level / levels[-2]) if k else at(0.0) for k, level in enumerate(levels[:-1])]
    count, order = len(tokens), order.to(tokens.device)
    nats = torch.zeros(count, dtype=torch.float64, device=tokens.device)
    for part in torch.arange(count, device=tokens.device).split(batch_size):
        for k, tau in enumerate(temperatures):
            here = part[(order[part] == k).any(-1)]
            if not len(here):
                continue
            rows, masked = order[here] == k, order[here] >= k
            alpha_t = torch.tensor(alpha_at(levels[k], alpha), dtype=torch.float64)
            alpha_t = alpha_t.to(tokens.device).expand(len(here))
            lost = _nats(denoise, tokens[here], masked, rows, mask_index, tau, alpha_t)
            nats.index_add_(0, here[rows.nonzero()[:, 0]], lost.double())
    return Scores(finite("The N-step NELBO", nats.cpu()), lengths(tokens))


@torch.no_grad()
def nelbo_rows(
    denoise: Denoise,
    noise: Callable[[Tensor], tuple[Tensor, Tensor]],
    tokens: Tensor,
    mask_index: int,
    *,
    generator: torch.Generator | None = None,
    eps: float = 1e-3,
    batch_size: int = 64,
    temperature: float = 1.0,
    free: Tensor | None = None,
) -> Scores:
    """Estimate the continuous-time NELBO by row, the bound that masked models train on.

    It charges for tokens that are masked at t, and so not for the share alpha_1 that would be
    visible at t = 1, where samplers begin with all masked: a bound where alpha_1 is about 0.

    noise: t (batch,) -> (dalpha_t, alpha_t), as the hosts' schedules; one t in (eps, 1] a
    row of tokens (rows, length), stratified over the rows, at which a time-conditioned
    network is called. With generators of the same seed two models see the same masks. free: as
    of `n_step_nelbo`. Raises ConfigError as `n_step_nelbo`.
    """
    check(tokens, mask_index)
    rows, device = len(tokens), tokens.device
    t = (torch.rand(rows, generator=generator) + torch.arange(rows)) / rows
    dalpha_t, alpha_t = noise(eps + (1 - eps) * t)
    masked = torch.rand(tokens.shape, generator=generator) > alpha_t[:, None]
    masked = (masked if free is None else masked & free).to(device)
    weight, alpha_t = (-dalpha_t / (1 - alpha_t)).to(device), alpha_t.to(device)
    nats = torch.zeros(rows, dtype=torch.float64, device=device)
    for part in torch.arange(rows, device=device).split(batch_size):
        at = masked[part]
        lost = _nats(denoise, tokens[part], at, at, mask_index, temperature, alpha_t[part])
        row = part[at.nonzero()[:, 0]]
        nats.index_add_(0, row, (lost * weight[row]).double())
    return Scores(finite("The NELBO", nats.cpu()), lengths(tokens))


def lengths(tokens: Tensor) -> Tensor:
    return torch.full((len(tokens),), tokens.shape[1], dtype=torch.float64)
