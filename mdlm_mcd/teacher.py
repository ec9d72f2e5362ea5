"""The teacher: a frozen snapshot of the student."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn as nn

from .weights import load_strictly


class Teacher:
    """theta^- of Algorithm 1: the student as it was when the round began.

    Not an `nn.Module`, so that a module may hold one as an attribute without its
    optimizer, DDP or `state_dict` seeing it.
    """

    def __init__(self):
        self.backbone: nn.Module | None = None
        self.round: int | None = None

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
