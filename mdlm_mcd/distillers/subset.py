"""Subset consistency (`algo=subset`) as a Lightning mixin."""

from __future__ import annotations

from ..curriculum import Round
from .mcd import MCD
from .rng import StepNoise


class Subset(MCD):
    """MCD's pair without its curriculum: s anywhere below t, one teacher to the end."""

    schedule = ("tau0", "tau_step")

    def times(self, round_: Round, noise: StepNoise):
        """Return t ~ U(0, 1] and s ~ U(0, t], each (batch,)."""
        return noise.times(None)
