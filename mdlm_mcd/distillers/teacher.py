"""The teacher: a frozen snapshot of the student."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn

from ..checkpoints.weights import load_strictly
from .sharding import tensors, whole

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

    def prepare(self, student: nn.Module) -> None:
        """Copy the network, in eval mode (no dropout); it is no teacher yet.

        By itself where the student is about to be sharded and cannot be copied then.
        """
        self.backbone = copy.deepcopy(student)
        self.backbone.requires_grad_(False)
        self.backbone.eval()

    @torch.no_grad()
    def snapshot(self, student: nn.Module, round_index: int) -> None:
        """stopgrad(theta): copy the student's weights.

        Of a sharded student inside of `sharding.whole`, and in all processes.
        """
        if self.backbone is None:
            self.prepare(student)
        else:
            weights = tensors(student)
            with whole(self.backbone, write=True):
                for name, own in tensors(self.backbone).items():
                    own.copy_(weights[name])
        self.backbone.eval()
        self.round = round_index
        self.sum = checksum(self.backbone)

    def shard(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """Spread the weights over the processes by wrap(backbone)."""
        self.backbone = wrap(self.backbone)
        self.sum = checksum(self.backbone)  # of this process's part, from now on

    def keep(self, round_index: int) -> None:
        """Serve another round unchanged."""
        self.round = round_index

    def to(self, *args) -> None:
        """As `nn.Module.to`: a device, a dtype, or both."""
        if self.backbone is not None:
            self.backbone.to(*args)
            self.sum = checksum(self.backbone)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and a number only: opens with `torch.load(weights_only=True)`.

        Of a sharded teacher in all processes, and whole in each.
        """
        with whole(self.backbone):
            held = tensors(self.backbone)
            weights = {name: x.detach().clone() for name, x in held.items()}
        return {"round": self.round, "backbone": weights}

    def load_state_dict(self, state: dict[str, Any], like: nn.Module) -> None:
        """Restore a teacher of the same architecture as `like`, before it is sharded.

        Raises CheckpointError where it does not fit.
        """
        if self.backbone is None:
            self.prepare(like)
        load_strictly(self.backbone, state["backbone"], "the checkpoint's teacher")
        self.round = state["round"]
        self.sum = checksum(self.backbone)

    def is_as_taken(self) -> bool:
        """Whether the weights are those of the snapshot, to the bit."""
        return self.backbone is not None and checksum(self.backbone) == self.sum
