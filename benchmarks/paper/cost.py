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
    """One sequence through a network.

    trunk and head: FLOPs of a forward pass up to the output projection, and of that
    projection on every row. trunk_trained, head_trained: forward and backward.
    """

    parameters: int
    length: int
    trunk: int
    head: int
    trunk_trained: int
    head_trained: int

    def step(self, batch: int, method: Method) -> float:
        """Return the FLOPs of an optimizer step: student both ways, teacher forward."""
        rows = method.head_rows
        student = self.trunk_trained + rows * self.head_trained
        teacher = 0.0
        if method.teacher_passes:  # whose rows are projected once, in one of them
            teacher = method.teacher_passes * self.trunk + rows * self.head
        return batch * (student + teacher)

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


def _flops(call) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def count(model: Mapping, *, uniform: bool = False) -> Counted:
    """Count a network of the config section `model` over GPT-2's vocabulary.

    A masked model has one token more than GPT-2, its mask; a uniform-state one has not.
    """
    sizes = tuple(model[key] for key in SIZES)
    return _count(sizes, model["length"], GPT2_TOKENS + (not uniform))


SIZES = ("hidden_size", "cond_dim", "n_blocks", "n_heads", "dropout")


@cache
def _count(sizes: tuple, length: int, vocab: int) -> Counted:
    model = dict(zip(SIZES, sizes, strict=True))
    with torch.device("meta"):
        network = DIT({"model": model, "algo": {"causal_attention": False}}, vocab)
        tokens = torch.zeros(1, length, dtype=torch.long)
        sigma = torch.zeros(1)
        hidden = torch.zeros(1, length, model["hidden_size"], requires_grad=True)
    head = network.output_layer.linear
    whole = _flops(lambda: network(tokens, sigma))
    whole_trained = _flops(lambda: network(tokens, sigma).sum().backward())
    head_alone = _flops(lambda: head(hidden))
    head_trained = _flops(lambda: head(hidden).sum().backward())
    return Counted(
        parameters=sum(p.numel() for p in network.parameters()),
        length=length,
        trunk=whole - head_alone,
        head=head_alone,
        trunk_trained=whole_trained - head_trained,
        head_trained=head_trained,
    )
