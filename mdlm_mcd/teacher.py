"""The teacher: a frozen snapshot of the student."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn as nn

from .weights import load_strictly

_AT_ONCE = 1 << 22
_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksum(module: nn.Module) -> int:
    """A number that changes with any bit of the parameters, equal on all devices.

    Bit patterns as integers, each weighed by its place, summed modulo 2^64.
    """
    total, count = 0, 0
    for p in module.parameters():
        whole = p.detach().contiguous().view(-1).view(_WHOLE[p.element_size()])
        for part in whole.split(_AT_ONCE):
            place = torch.arange(count + 1, count + len(part) + 1, device=part.device)
            total += int((part * place).sum(dtype=torch.int64))
            count += len(part)
    return total % 2**64


class Teacher:
    """theta^- of Algorithm 1: the student as it was when the round began.

    Not an `nn.Module`, so that a module may hold one as an attribute without its
    optimizer, DDP or `state_dict` seeing it.
    """

    def __init__(self):
        self.backbone: nn.Module | None = None
        self.round: int | None = None
        self.sum: int | None = None  # checksum of the snapshot

    @torch.no_grad()
    def snapshot(self, student: nn.Module, round_index: int) -> None:
        """stopgrad(theta): copy the student's weights, in eval mode (no dropout)."""
        if self.backbone is None:
            self.backbone = copy.deepcopy(student)
            self.backbone.requires_grad_(False)
        else:
            self.backbone.load_state_dict(student.state_dict())
        self.backbone.eval()
        self.round = round_index
        self.sum = checksum(self.backbone)

    def keep(self, round_index: int) -> None:
        """Serve another round unchanged."""
        self.round = round_index

    def to(self, device: torch.device) -> None:
        if self.backbone is not None:
            self.backbone.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and a number only: opens with `torch.load(weights_only=True)`."""
        weights = {k: v.detach().clone() for k, v in self.backbone.state_dict().items()}
        return {"round": self.round, "backbone": weights}

    def load_state_dict(self, state: dict[str, Any], like: nn.Module) -> None:
        """Restore a teacher of the same architecture as `like`."""
        self.snapshot(like, state["round"])
        load_strictly(self.backbone, state["backbone"], "the checkpoint's teacher")
        self.sum = checksum(self.backbone)

    def is_as_taken(self) -> bool:
        """Whether the weights are those of the snapshot, to the bit."""
        return self.backbone is not None and checksum(self.backbone) == self.sum
