"""Self-distillation through time (SDTT, arXiv 2410.21035) as a Lightning mixin."""

from __future__ import annotations

import torch

from .. import head
from ..curriculum import Curriculum, Round
from ..errors import ConfigError
from .base import Distiller
from .rollout import rollout


class SDTT(Distiller):
    """The student on z_t learns what the teacher predicts over its next few steps."""

    loss_kinds = ("kl_bwd", "kl_fwd", "mse", "tvd")

    @classmethod
    def check_config(cls, config) -> Curriculum:
        steps = config.algo.teacher_steps
        if not isinstance(steps, int) or steps < 1:
            raise ConfigError(
                f"algo.teacher_steps={steps} must be a whole number of at least 1: it "
                "is how many steps of the teacher the student learns to take at once."
            )
        return super().check_config(config)

    def distil(self, round_: Round, x0, valid, condition, micro: int) -> head.LossOutput:
        algo = self.config.algo
        # s, the end of the teacher's last step, stays at or above 0.
        t, _ = self.draw_times(round_, x0.shape[0], micro)
        alpha_t = self.host_alpha(t).to(x0.device)
        masked = self.draw_u(x0.shape, micro) > alpha_t[:, None]
        z_t = torch.where(masked, self.mask_index, x0)
        student = self.encode(self.backbone, z_t, t, condition)
        with torch.no_grad():
            teacher = self._roll(round_, z_t, t, condition, micro)
        return head.supervise(
            algo.loss,
            student,
            teacher,
            x0,
            masked & (valid > 0),
            masked,
            tau=round_.tau,
            mask_index=self.mask_index,
            chunk=algo.head_chunk,
        )

    def _roll(self, round_: Round, z_t, t, condition, micro: int) -> head.HiddenStates:
        algo, steps = self.config.algo, self.config.algo.teacher_steps
        times = [t - round_.delta * k / steps for k in range(steps)]
        alphas = [self.host_alpha(time).to(z_t.device) for time in times]
        opening = [
            (later - now) / (1 - now) for now, later in zip(alphas, alphas[1:], strict=False)
        ]

        def noise(name: str):
            return [
                self.share(
                    len(z_t),
                    micro,
                    f"{name} {k}",
                    lambda total, generator: (
                        torch.rand(total, z_t.shape[1], generator=generator, dtype=torch.float64),
                    ),
                )[0]
                for k in range(steps - 1)
            ]

        features, _ = rollout(
            lambda z, k: self.encode(self.teacher.backbone, z, times[k], condition),
            z_t,
            opening,
            noise("open"),
            noise("token"),
            tau=round_.tau,
            mask_index=self.mask_index,
            chunk=algo.head_chunk,
        )
        return features
