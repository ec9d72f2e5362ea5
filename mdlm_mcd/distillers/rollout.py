"""Steps of a teacher's own sampler, taken while its predictions are collected.

Self-distillation through time (SDTT, arXiv 2410.21035) asks the student to predict
in one step what the teacher predicts on its way through several. The way is a short
stretch of ancestral sampling that starts at the student's state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import losses
from ..head import HiddenStates


def draw_tokens(
    features: HiddenStates, index: Tensor, v: Tensor, tau: float, mask_index: int, chunk: int = 1024
) -> Tensor:
    """One token at each position `index` of the flattened batch, (rows,) ids.

    By inversion of the distribution function, in float64, under SUBS at temperature
    tau: v (rows,), uniform on [0, 1), decides alone, whatever device or chunk.
    """
    drawn = [index.new_zeros(0)]
    for rows, uniform in zip(index.split(chunk), v.split(chunk), strict=True):
        logits = features.logits(features.rows(rows))
        if logits.device.type != "mps":  # which knows no float64
            logits = logits.double()
        p = losses.subs_masked(losses.temper(logits, tau), mask_index).exp()
        reached = p.cumsum(-1)
        # A token of probability zero is never the first to lie beyond the point.
        point = uniform[:, None].to(p) * reached[:, -1:]
        token = torch.searchsorted(reached, point, right=True).squeeze(-1)
        # Rounding may take the point to the very end of the row.
        drawn.append(token.where(token < p.shape[-1], p.argmax(-1)))
    return torch.cat(drawn)


def rollout(
    encode: Callable[[Tensor, int], HiddenStates],
    z_t: Tensor,
    opening: Sequence[Tensor],
    u: Sequence[Tensor],
    v: Sequence[Tensor],
    *,
    tau: float,
    mask_index: int,
    chunk: int = 1024,
) -> tuple[HiddenStates, Tensor]:
    """The teacher's predictions along len(opening) + 1 ancestral steps from z_t.

    encode(z, k): what the teacher knows of state z (batch, length) at its k-th time.
    opening: for each step but the last, the chance (batch,) that a masked token opens,
    (alpha_s - alpha_t) / (1 - alpha_t); u, v: for each of them, (batch, length)
    uniforms that decide which tokens open and what they become.

    Answers what the teacher knew of each token at the step in which it opened, or at
    the last step for those still masked there, and the state that it was shown last.
    What the last step would draw is not needed: its predictions are taken either way.
    """
    z, known = z_t, encode(z_t, 0)
    hidden = known.hidden
    for k, (chance, u_k, v_k) in enumerate(zip(opening, u, v, strict=True)):
        opens = (z == mask_index) & (u_k < chance[:, None])
        index = opens.flatten().nonzero().squeeze(-1)
        tokens = draw_tokens(known, index, v_k.flatten()[index], tau, mask_index, chunk)
        z = z.flatten().index_copy(0, index, tokens).view_as(z)
        known = encode(z, k + 1)
        masked = (z == mask_index)[..., None]
        hidden = torch.where(masked, known.hidden, hidden)
    return HiddenStates(hidden, known.linear, known.autocast), z
