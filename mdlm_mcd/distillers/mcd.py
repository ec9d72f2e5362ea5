"""Masked Consistency Distillation: Algorithm 1 as a Lightning mixin."""

from __future__ import annotations

import torch

from .. import coupling, head, losses
from ..curriculum import Curriculum, Round
from .base import Distiller
from .noise import number


class MCD(Distiller):
    """The student on z_t learns from the teacher on z_s, two views of one u."""

    @classmethod
    def check_config(cls, config) -> Curriculum:
        algo = config.algo
        coupling.check_coupling(algo.coupling)
        # A trial draw refuses what no law knows; the global generator stays untouched.
        coupling.draw_u(
            1, 1, algo.u_law, step=number(algo, "u_step"), generator=torch.Generator()
        )
        return super().check_config(config)

    def distil(
        self, stage: Round, x0, valid, condition, micro: int
    ) -> head.Supervision:
        algo = self.config.algo
        t, s = self.draw_times(stage, x0.shape[0], micro)
        u = self.draw_u(x0.shape, micro)
        other = None
        if algo.coupling == "independent":
            other = self.draw_u(x0.shape, micro, "u of the teacher")
        pair = coupling.couple_as(
            algo.coupling, x0, u, other, t, s, self.host_alpha, self.mask_index
        )
        student = self._encode(self.backbone, pair.z_t, t, condition)
        teacher = None
        if losses.get(algo.loss).needs_teacher:
            with torch.no_grad():
                # With the student's own view the teacher is also told its time.
                time = t if algo.coupling == "none" else s
                teacher = self._encode(self.teacher.backbone, pair.z_s, time, condition)
        return head.supervise(
            algo.loss, student, teacher, x0, pair.masked_t & (valid > 0), pair.masked_s,
            tau=stage.tau, mask_index=self.mask_index, chunk=algo.head_chunk,
        )  # fmt: skip

    def _encode(self, backbone, z, t, condition) -> head.Features:
        alpha_t = self.host_alpha(t)
        return head.encode(
            backbone, lambda net: self.host_denoise(net, z, alpha_t, condition)
        )
