"""Discrete consistency distillation (arXiv 2506.10892) as a Lightning mixin."""

from __future__ import annotations

import torch
from omegaconf import DictConfig

from .. import head
from ..curriculum import Curriculum, Round
from ..errors import ConfigError
from . import gaussian
from .base import Distiller
from .rng import number


class DCD(Distiller):
    """A uniform-state student on z_t learns from the teacher on z_s, at every token.

    The two views lie on one deterministic path of the underlying Gaussian diffusion
    (`uniform`), and each network is told its own alpha = T(alpha_tilde).
    """

    parameterization = "mean"
    loss_kinds = ("kl_bwd", "kl_fwd")

    @classmethod
    def check_config(cls, config: DictConfig) -> Curriculum:
        curriculum = super().check_config(config)
        for name in ("gamma_min", "gamma_max"):
            if number(config.algo, name) is None:
                raise ConfigError(f"algo.{name}=None must be a finite number.")
        return curriculum

    def check_model(self) -> None:
        algo = self.config.algo
        self.gaussian = gaussian.GaussianSchedule(
            self.vocab_size, number(algo, "gamma_min"), number(algo, "gamma_max")
        )

    def alpha(self, t: torch.Tensor) -> torch.Tensor:
        return self.gaussian(t)

    def distil(self, round_: Round, x0, valid, condition, micro: int) -> head.LossOutput:
        algo, (count, length) = self.config.algo, x0.shape
        t, s = self.draw_times(round_, count, micro)
        (other,) = self.share(
            count,
            micro,
            "other token",
            lambda total, generator: (
                gaussian.draw_other((total, length), self.vocab_size, generator),
            ),
        )
        pair = gaussian.couple(
            x0, self.draw_u(x0.shape, micro), other, t, s, self.alpha, self.vocab_size
        )
        student = self.encode(self.backbone, pair.z_t, t, condition)
        with torch.no_grad():
            teacher = self.encode(self.teacher.backbone, pair.z_s, s, condition)
        return head.supervise_all(
            algo.loss, student, teacher, valid > 0, tau=round_.tau, chunk=algo.head_chunk
        )
