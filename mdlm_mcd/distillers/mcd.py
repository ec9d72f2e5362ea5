"""Masked Consistency Distillation: Algorithm 1 as a Lightning mixin."""

from __future__ import annotations

import torch

from .. import coupling, head, losses
from ..curriculum import Round
from .base import Distiller
from .rng import StepNoise


class MCD(Distiller):
    """Distil the teacher on z_s into the student on z_t, two views of one u.

    The inner loop of Algorithm 1; the outer one, over rounds, is `Distiller`'s.
    """

    def times(self, round_: Round, noise: StepNoise):
        """Return t ~ U(delta, 1] and s = t - delta, each (batch,)."""
        return noise.times(round_.delta)

    def distil(self, round_: Round, x0, valid, condition, noise: StepNoise) -> head.LossOutput:
        algo, length = self.config.algo, x0.shape[1]
        u = noise.u(length)
        t, s = self.times(round_, noise)
        other = noise.u(length, "u of the teacher") if algo.coupling == "independent" else None
        # Eq. 13: a token is masked at t where u > alpha_t, and at s where u > alpha_s.
        pair = coupling.couple_as(
            algo.coupling, x0, u, other, t, s, self.host_alpha, self.mask_index
        )
        student = self.encode(self.backbone, pair.z_t, self.host_alpha(t), condition)
        teacher = None
        if losses.get(algo.loss).needs_teacher:
            # coupling=none shows the teacher the student's own view, at its time.
            alpha_s = self.host_alpha(t if algo.coupling == "none" else s)
            with torch.no_grad():
                teacher = self.encode(self.teacher.backbone, pair.z_s, alpha_s, condition)
        # Eq. 14, on the rows that it reads.
        counts = pair.masked_t & (valid > 0)
        return self.supervise(round_, student, teacher, x0, counts, pair.masked_s)
