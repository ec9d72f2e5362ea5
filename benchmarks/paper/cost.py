"""Parameters and FLOPs of the paper's models, counted on the meta device.

Nothing is allocated and nothing is timed. Operations are counted by torch's
`FlopCounterMode` (matrix products, two FLOPs a multiply-add) on the embedded host's
DIT, which has the hosts' sizes and parameter names. Optimizer, norms, softmax and the
float64 draws of sampling are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from mdlm_mcd.models.dit import DIT

from .experiments import PARAMETERS, Method

GPT2_TOKENS = 50_257
A100 = 312e12  # bfloat16, dense, by its data sheet


@dataclass(frozen=True)
class Hardware:
    """The machine for which hours are computed: devices x FLOP/s of each x share used."""

    devices: int = 2
    peak: float = A100
    mfu: float = 0.4

    def hours(self, flops: float, devices: int | None = None) -> float:
        return flops / ((devices or self.devices) * self.peak * self.mfu) / 3600

    def __str__(self) -> str:
        return f"{self.devices} devices of {self.peak / 1e12:.0f} TFLOP/s at {self.mfu:.0%} MFU"


@dataclass(frozen=True)
class Counted:
    """One sequence through a network: FLOPs of a forward pass.

    trunk: up to the output projection. head: that projection, of every row. A backward pass
    costs twice the forward.
    """

    parameters: int
    length: int
    trunk: int
    head: int

    def step(self, batch: int, method: Method) -> float:
        """Return the FLOPs of an optimizer step: student both ways, teacher forward."""
        heads = 3 + bool(method.teacher_passes)  # the teacher's rows are projected once
        trunks = 3 + method.teacher_passes
        return batch * (trunks * self.trunk + method.head_rows * heads * self.head)

    def sample(self, steps: int, uniform: bool = False) -> float:
        """Return the FLOPs of drawing one sequence.

        Each row is projected once, or, in a uniform-state model, at every step.
        """
        return steps * self.trunk + self.head * (steps if uniform else 1)

    def bound(self, steps: int) -> float:
        """Return the FLOPs of one row's N-step NELBO: half of the rows are masked on average."""
        return steps * (self.trunk + 0.5 * self.head)


def judged(evaluator: str, length: int) -> float:
    """Return the FLOPs of scoring one sample: twice the parameters a token; 0 if unknown."""
    return 2.0 * PARAMETERS.get(evaluator, 0) * length


def count(model: Mapping, *, uniform: bool = False) -> Counted:
    """Count a network of the config section `model` over GPT-2's vocabulary.

    A masked model has one token more than GPT-2, its mask; a uniform-state one has not.
    """
    sizes = ("hidden_size", "cond_dim", "n_blocks", "n_heads", "dropout", "length")
    return _count(tuple((key, model[key]) for key in sizes), GPT2_TOKENS + (not uniform))


@cache
def _count(sizes: tuple, vocab: int) -> Counted:
    model = dict(sizes)
    with torch.device("meta"):
        network = DIT({"model": model, "algo": {"causal_attention": False}}, vocab)
        tokens = torch.zeros(1, model["length"], dtype=torch.long)
        sigma, hidden = torch.zeros(1), torch.zeros(1, model["length"], model["hidden_size"])
    with FlopCounterMode(display=False) as counter:
        network.output_layer.linear(hidden)
        head = counter.get_total_flops()
        network(tokens, sigma)
        trunk = counter.get_total_flops() - 2 * head
    parameters = sum(p.numel() for p in network.parameters())
    return Counted(parameters, model["length"], trunk, head)
