"""Subset consistency (`algo=cd4lm`) as a Lightning mixin."""

from __future__ import annotations

from .. import coupling
from ..curriculum import Round
from .mcd import MCD


class CD4LM(MCD):
    """MCD's pair without its curriculum: s anywhere below t, one teacher to the end."""

    schedule = ("tau0", "tau_step")

    def draw_times(self, round_: Round, count: int, micro: int):
        return self.share(
            count,
            micro,
            "t",
            lambda total, generator: coupling.sample_nested_times(
                total, generator=generator, antithetic=self.config.training.antithetic_sampling
            ),
        )
