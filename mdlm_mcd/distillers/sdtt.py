"""Self-distillation through time (SDTT, arXiv 2410.21035) as a Lightning mixin."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from .. import head, losses
from ..curriculum import Round
from .base import Distiller
from .rng import StepNoise


class SDTT(Distiller):
    """Distil what the teacher predicts over its next few steps into one step on z_t.

    Those steps are a short stretch of ancestral sampling from the student's state.
    """

    loss_kinds = ("kl_bwd", "kl_fwd", "mse", "tvd")
    least = {"teacher_steps": 1}

    def distil(self, round_: Round, x0, valid, condition, noise: StepNoise) -> head.LossOutput:
        # s, the end of the teacher's last step, stays at or above 0.
        t, _ = noise.times(round_.delta)
        alpha_t = self.host_alpha(t).to(x0.device)
        masked = noise.u(x0.shape[1]) > alpha_t[:, None]
        z_t = torch.where(masked, self.mask_index, x0)
        student = self.encode(self.backbone, z_t, alpha_t, condition)
        with torch.no_grad():
            teacher = self.rollout(round_, z_t, t, condition, noise)
        return self.supervise(round_, student, teacher, x0, masked & (valid > 0), masked)

    def rollout(self, round_: Round, z_t, t, condition, noise: StepNoise) -> head.HiddenStates:
        """Collect what the teacher predicts in its `teacher_steps` ancestral steps from z_t.

        z_t: (batch, length); t: (batch,). A step from alpha_t to alpha_s opens a masked token
        with a chance of (alpha_s - alpha_t) / (1 - alpha_t). Return what the teacher knew of
        each token at the step in which it opened, or at the last step for those still masked
        there; what that step would draw is not needed.
        """
        algo, mask = self.config.algo, self.mask_index
        times = (t - round_.delta * k / algo.teacher_steps for k in range(algo.teacher_steps))
        alphas = [self.host_alpha(time).to(z_t.device) for time in times]
        z, known = z_t, self.encode(self.teacher.backbone, z_t, alphas[0], condition)
        hidden = known.hidden
        for k, (now, later) in enumerate(itertools.pairwise(alphas)):
            u, v = (
                noise.uniform(f"{name} {k}", z.shape[1], dtype=torch.float64)
                for name in ("open", "token")
            )
            opens = (z == mask) & (u < ((later - now) / (1 - now))[:, None])
            index = opens.flatten().nonzero().squeeze(-1)
            v = v.flatten()[index]
            tokens = draw_tokens(known, index, v, round_.tau, mask, algo.head_chunk)
            z = z.flatten().index_copy(0, index, tokens).view_as(z)
            known = self.encode(self.teacher.backbone, z, later, condition)
            hidden = torch.where((z == mask)[..., None], known.hidden, hidden)
        return head.HiddenStates(hidden, known.linear, known.autocast)


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
