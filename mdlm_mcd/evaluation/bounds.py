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

import torch
from torch import Tensor

from ..coupling import Alpha, draw_u
from ..errors import ConfigError
from ..losses import subs_masked, temper
from ..sampling.chain import Denoise, alpha_at, logits_at
from .intervals import Scores, finite


def levels_of(alpha: Alpha, steps: int) -> Tensor:
    """Return the share of tokens open before and after each step: (steps + 1,), 0 to 1.

    `sampling.sample`'s grid: all is masked at t = 1, whatever alpha is there, and the last
    step opens what is left.
    """
    alphas = alpha(torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)).double()
    levels = (alphas - alphas[0]) / (1.0 - alphas[0])
    levels[-1] = 1.0
    return levels


def opening_steps(u: Tensor, levels: Tensor) -> Tensor:
    """Return the step at which each token opens, the first whose level exceeds u.

    levels: (steps + 1,). u's shape, int64, from 0 to steps - 1.
    """
    ends = levels[1:].double().to(u.device)
    return torch.searchsorted(ends, u.double(), right=True).clamp(max=len(ends) - 1)


def _check(tokens: Tensor, valid: Tensor | None, mask_index: int) -> Tensor:
    """Return `valid` as (rows, length) bool, given or all True."""
    if tokens.ndim != 2 or not tokens.numel():
        raise ConfigError(
            f"held-out tokens of shape {tuple(tokens.shape)} hold no text: give "
            "(rows, length) with at least one token."
        )
    if valid is None:
        valid = torch.ones_like(tokens, dtype=torch.bool)
    valid = valid.bool().to(tokens.device)
    if valid.shape != tokens.shape:
        raise ConfigError(
            f"valid has shape {tuple(valid.shape)} and tokens {tuple(tokens.shape)}: "
            "give the attention mask of the same rows."
        )
    if not valid.any():
        raise ConfigError("valid leaves no token to count: give rows with text.")
    if (tokens[valid] == mask_index).any():
        raise ConfigError(
            f"held-out tokens hold mask_index={mask_index}, which no model predicts: "
            "give text without masks, or leave those positions out of valid."
        )
    return valid


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
    u_law: str = "iid",
    u_step: float | None = None,
    generator: torch.Generator | None = None,
    temperature: float | Callable[[float], float] = 1.0,
    batch_size: int = 64,
    valid: Tensor | None = None,
    draws: int = 1,
    levels: Sequence[float] | None = None,
    **law,
) -> Scores:
    """Estimate the N-step NELBO: what each of N steps opens, given the truth before it.

    Unbiased over u, for any sampler that opens by u (module docstring); with iid u that is
    `ancestral` and `sparse`. `.value` is in nats per token, `.nats` and `.tokens` are of
    each row. A time-conditioned network is called at the times of the steps. At most
    `steps` network passes a row and draw: a step that opens nothing in a row costs nothing.

    tokens: (rows, length) held-out ids.
    valid: (rows, length) bool; other positions are masked and opened like any, and neither
      counted nor projected.
    temperature: of the sampler (log-probabilities renormalised), or a function from the
      fraction of the way, 0 at the first step and 1 at the last, as in `sampling.sample`.
    levels: (steps + 1,) shares from 0 to 1 in place of alpha's.
    generator: on the CPU; with the same seed two models see the same masks.
    draws: of u for each row, averaged.
    law: further keywords of `coupling.draw_u`.

    Raises ConfigError for settings out of range, tokens with mask_index among them, no
    token to count, or nats that are not finite.
    """
    valid = _check(tokens, valid, mask_index)
    if steps < 1 or draws < 1:
        raise ConfigError(f"steps={steps} and draws={draws} must be at least 1.")
    first = float(alpha(torch.ones(1, dtype=torch.float64)))
    if levels is None:
        levels = levels_of(alpha, steps)
    levels = torch.as_tensor(levels, dtype=torch.float64)
    at = temperature if callable(temperature) else lambda fraction: temperature
    fractions = [0.0, *(levels[1:-1] / levels[-2]).tolist()]
    temperatures = [at(fraction) for fraction in fractions]
    if len(levels) != steps + 1 or not min(temperatures) > 0:
        raise ConfigError(
            f"temperature={temperature} must be positive and levels, of which there "
            f"are {len(levels)}, be steps + 1 = {steps + 1}."
        )
    count, length = tokens.shape
    u = draw_u(count * draws, length, u_law, step=u_step, generator=generator, **law)
    order = opening_steps(u, levels).to(tokens.device)
    nats = torch.zeros(count * draws, dtype=torch.float64, device=tokens.device)
    for part in torch.arange(count * draws, device=tokens.device).split(batch_size):
        x0, counts = tokens[part // draws], valid[part // draws]
        for k, tau in enumerate(temperatures):
            opens = (order[part] == k) & counts
            here = opens.any(-1).nonzero().squeeze(-1)
            if not len(here):
                continue
            rows, masked = opens[here], order[part][here] >= k
            alpha_t = alpha_at(levels[k], first).expand(len(here))
            lost = _nats(denoise, x0[here], masked, rows, mask_index, tau, alpha_t)
            where = part[here][rows.nonzero()[:, 0]]
            nats.index_add_(0, where, lost.double())
    nats = finite("The N-step NELBO", nats.view(count, draws).mean(-1).cpu())
    return Scores(nats, valid.sum(-1).double().cpu())


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
    valid: Tensor | None = None,
) -> Scores:
    """Estimate the continuous-time NELBO by row, the bound that masked models train on.

    noise: t (batch,) -> (dalpha_t, alpha_t), as the hosts' schedules; one t in (eps, 1] a
    row of tokens (rows, length), stratified over the rows, at which a time-conditioned
    network is called. With generators of the same seed two models see the same masks.
    Raises ConfigError as `n_step_nelbo`.
    """
    valid = _check(tokens, valid, mask_index)
    rows = len(tokens)
    t = (torch.rand(rows, generator=generator) + torch.arange(rows)) / rows
    dalpha_t, alpha_t = (a[:, None] for a in noise(eps + (1 - eps) * t))
    masked = torch.rand(tokens.shape, generator=generator) > alpha_t
    masked = masked.to(tokens.device)
    weight = (-dalpha_t / (1 - alpha_t)).to(tokens.device)
    alpha_t = alpha_t[:, 0].to(tokens.device)
    nats = torch.zeros(rows, dtype=torch.float64, device=tokens.device)
    for part in torch.arange(rows, device=tokens.device).split(batch_size):
        x0, hidden = tokens[part], masked[part]
        at = hidden & valid[part]
        lost = _nats(denoise, x0, hidden, at, mask_index, temperature, alpha_t[part])
        row = part[at.nonzero()[:, 0]]
        nats.index_add_(0, row, (lost * weight[row, 0]).double())
    return Scores(finite("The NELBO", nats.cpu()), valid.sum(-1).double().cpu())


def nelbo(*args, **kwargs) -> float:
    """Return `nelbo_rows` in nats per token."""
    return nelbo_rows(*args, **kwargs).value
