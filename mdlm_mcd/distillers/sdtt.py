"""Self-distillation through time (SDTT, arXiv 2410.21035) as a Lightning mixin."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import head, losses
from ..curriculum import Curriculum, Round
from .base import Distiller
from .rng import StepNoise
from .settings import check_whole


class SDTT(Distiller):
    """Distil what the teacher predicts over its next few steps into one step on z_t.

    Those steps are a short stretch of ancestral sampling from the student's state.
    """

    loss_kinds = ("kl_bwd", "kl_fwd", "mse", "tvd")

    @classmethod
    def check_config(cls, config) -> Curriculum:
        why = "it is how many steps of the teacher the student learns to take at once"
        check_whole(config, "teacher_steps", 1, why)
        return super().check_config(config)

    def distil(self, round_: Round, x0, valid, condition, noise: StepNoise) -> head.LossOutput:
        # s, the end of the teacher's last step, stays at or above 0.
        t, _ = noise.times(round_.delta)
        alpha_t = self.host_alpha(t).to(x0.device)
        masked = noise.u(x0.shape[1]) > alpha_t[:, None]
        z_t = torch.where(masked, self.mask_index, x0)
        student = self.encode(self.backbone, z_t, alpha_t, condition)
        with torch.no_grad():
            teacher = self._roll(round_, z_t, t, condition, noise)
        return self.supervise(round_, student, teacher, x0, masked & (valid > 0), masked)

    def _roll(self, round_: Round, z_t, t, condition, noise: StepNoise) -> head.HiddenStates:
        steps = self.config.algo.teacher_steps
        times = [t - round_.delta * k / steps for k in range(steps)]
        alphas = [self.host_alpha(time).to(z_t.device) for time in times]

        length, wide = z_t.shape[1], torch.float64
        u, v = (
            [noise.uniform(f"{name} {k}", length, dtype=wide) for k in range(steps - 1)]
            for name in ("open", "token")
        )
        return rollout(
            lambda z, k: self.encode(self.teacher.backbone, z, alphas[k], condition),
            z_t,
            [(later - now) / (1 - now) for now, later in itertools.pairwise(alphas)],
            u,
            v,
            tau=round_.tau,
            mask_index=self.mask_index,
            chunk=self.config.algo.head_chunk,
        )


def draw_tokens(
    features: head.HiddenStates,
    index: Tensor,
    v: Tensor,
    tau: float,
    mask_index: int,
    chunk: int | None = None,
) -> Tensor:
    """Draw a token at each position `index` of the flattened batch, ids in the shape of v.

    By inversion of the distribution function, in float64, under SUBS at temperature
    tau: v (rows,) or (rows, draws), uniform on [0, 1), decides alone, whatever device or
    chunk.
    """
    chunk, drawn = chunk or head.default_chunk(features), []
    columns = v if v.ndim == 2 else v[:, None]
    for rows, uniform in zip(index.split(chunk), columns.split(chunk), strict=True):
        logits = features.logits(features.rows(rows))
        if logits.device.type != "mps":  # which knows no float64
            logits = logits.double()
        p = losses.subs_masked(losses.temper(logits, tau), mask_index).exp()
        reached = p.cumsum(-1)
        # A token of probability zero is never the first to lie beyond the point.
        point = uniform.to(p) * reached[:, -1:]
        token = torch.searchsorted(reached, point, right=True)
        # Rounding may take the point to the very end of the row.
        drawn.append(token.where(token < p.shape[-1], p.argmax(-1, keepdim=True)))
    return torch.cat(drawn).view(v.shape)


def rollout(
    encode: Callable[[Tensor, int], head.HiddenStates],
    z_t: Tensor,
    opening: Sequence[Tensor],
    u: Sequence[Tensor],
    v: Sequence[Tensor],
    *,
    tau: float,
    mask_index: int,
    chunk: int | None = None,
) -> head.HiddenStates:
    """Collect the teacher's predictions along len(opening) + 1 ancestral steps.

    z_t: (batch, length), where the teacher starts. encode(z, k): its hidden states on
    z (batch, length) at its k-th time.
    opening: for each step but the last, the chance (batch,) that a masked token opens,
    (alpha_s - alpha_t) / (1 - alpha_t); u, v: for each of them, (batch, length)
    uniforms that decide which tokens open and what they become.

    Return what the teacher knew of each token at the step in which it opened, or at the
    last step for those still masked there; what that step would draw is not needed.
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
    return head.HiddenStates(hidden, known.linear, known.autocast)
