"""Masked Consistency Distillation: Algorithm 1 as a Lightning mixin."""

from __future__ import annotations

import torch

from .. import coupling, head, losses
from ..curriculum import Curriculum, Round
from .base import Distiller


class MCD(Distiller):
    """The student on z_t learns from the teacher on z_s, two views of one u."""

    @classmethod
    def check_config(cls, config) -> Curriculum:
        coupling.check_coupling(config.algo.coupling)
        return super().check_config(config)

    def distil(self, round_: Round, x0, valid, condition, micro: int) -> head.LossOutput:
        algo = self.config.algo
        t, s = self.draw_times(round_, x0.shape[0], micro)
        u = self.draw_u(x0.shape, micro)
        other = None
        if algo.coupling == "independent":
            other = self.draw_u(x0.shape, micro, "u of the teacher")
        pair = coupling.couple_as(
            algo.coupling, x0, u, other, t, s, self.host_alpha, self.mask_index
        )
        student = self.encode(self.backbone, pair.z_t, t, condition)
        teacher = None
        if losses.get(algo.loss).needs_teacher:
            with torch.no_grad():
                # With the student's own view the teacher is also told its time.
                time = t if algo.coupling == "none" else s
                teacher = self.encode(self.teacher.backbone, pair.z_s, time, condition)
        return head.supervise(
            algo.loss,
            student,
            teacher,
            x0,
            pair.masked_t & (valid > 0),
            pair.masked_s,
            tau=round_.tau,
            mask_index=self.mask_index,
            chunk=algo.head_chunk,
        )
