"""Compute all noise of a `locked` trajectory from counters; none is stored."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..coupling import counter_generator
from ..laws import draw_u

GAMMA = 0x9E3779B97F4A7C15


def _signed(x: int) -> int:
    """Return x modulo 2^64 in the range of int64."""
    return (x + 2**63) % 2**64 - 2**63


def _mix(x: Tensor) -> Tensor:
    """Apply the finalizer of SplitMix64 (Steele et al. 2014) to int64, in place."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        # int64 shifts copy the sign: the mask makes them logical.
        x.bitwise_xor_((x >> shift).bitwise_and_((1 << (64 - shift)) - 1))
        x.mul_(_signed(factor))
    return x.bitwise_xor_((x >> 31).bitwise_and_((1 << 33) - 1))


@dataclass(frozen=True)
class Latent:
    """Noise as a function of (seed, sequence, position, token) and a law of u.

    The same for every model, temperature, number of steps, batch size and device.
    Sequences count from `first`, so that batches can go on where others ended.
    """

    seed: int
    u_law: str = "iid"
    u_step: float | None = None
    stratified: bool = False
    first: int = 0

    def u(self, batch: int, length: int, free: Tensor | None = None) -> Tensor:
        """Return u (batch, length), float64 on the CPU; free: as for `laws.draw_u`."""
        return torch.cat(
            [
                draw_u(
                    1,
                    length,
                    self.u_law,
                    step=self.u_step,
                    prefix="",
                    stratified=self.stratified,
                    free=None if free is None else free[i : i + 1],
                    dtype=torch.float64,
                    generator=counter_generator(self.seed, "u", self.first + i),
                )
                for i in range(batch)
            ]
        )

    def race(self, rows: Tensor, vocab_size: int) -> Tensor:
        """Return -log of uniforms for the exponential race, (rows.sum(), vocab_size).

        argmax(p / race) is argmax(log p + Gumbel noise). rows: (batch, length) bool; only
        their noise is made, in float64 by a counter-based generator on their device.
        """
        sequence, position = rows.nonzero(as_tuple=True)
        # Hashed: from the seed itself, sequence 1 of seed 1 would be 0 of seed 2.
        start = counter_generator(self.seed, "race").initial_seed()
        key = torch.full_like(sequence, _signed(start))
        for counter in (sequence + self.first, position):
            key = _mix(key.add_(counter).add_(_signed(GAMMA)))
        token = torch.arange(1, vocab_size + 1, device=rows.device)
        bits = _mix(key[:, None] + token * _signed(GAMMA))
        # 52 bits plus one half fit in float64, and leave 0 and 1 out of the uniforms.
        u = (bits >> 12).bitwise_and_((1 << 52) - 1).double()
        return u.add_(0.5).mul_(2.0**-52).log_().neg_()
