"""The teacher: a frozen snapshot of the student."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from ..checkpoints.weights import load_strictly
from ..errors import TeacherError
from ..head import FSDP_INNER, is_sharded

_AT_ONCE = 1 << 22
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Teacher:
    """theta^- of Algorithm 1: the student as it was when the round began.

    Not an `nn.Module`, so that a module may have one as an attribute without its
    optimizer, DDP or `state_dict` seeing it. compile: by `compile_blocks`.
    """

    def __init__(self, compile: bool = False):
        self.compile = compile
        self.backbone: nn.Module | None = None
        self.round: int | None = None

    def prepare(self, student: nn.Module) -> None:
        """Copy the network, in eval mode (no dropout); it is no teacher yet.

        By itself where the student is about to be sharded and cannot be copied then.
        """
        self.backbone = copy.deepcopy(student)
        self.backbone.requires_grad_(False)
        self.backbone.eval()
        if self.compile:  # a copy is not
            compile_blocks(self.backbone)

    @torch.no_grad()
    def snapshot(self, student: nn.Module, round_index: int) -> None:
        """Take stopgrad(theta), the student's weights.

        Of a sharded student inside of `whole`, and in all processes.
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

    def shard(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """Spread the weights over the processes by wrap(backbone)."""
        self.backbone = wrap(self.backbone)

    def to(self, *args) -> None:
        """Move as `nn.Module.to`: to a device, a dtype, or both."""
        if self.backbone is not None:
            self.backbone.to(*args)

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and a number only: `torch.load(weights_only=True)` opens them.

        Of a sharded teacher in all processes, and whole in each.
        """
        with whole(self.backbone):
            weights = {name: x.detach().clone() for name, x in tensors(self.backbone).items()}
        return {"round": self.round, "backbone": weights}

    def load_state_dict(self, state: dict[str, Any], like: nn.Module) -> None:
        """Restore a teacher of the same architecture as `like`, before it is sharded.

        Raises CheckpointError where it does not fit.
        """
        if self.backbone is None:
            self.prepare(like)
        load_strictly(self.backbone, state["backbone"], "the checkpoint's teacher")
        self.round = state["round"]

    def check_same(self, module) -> None:
        """Raise TeacherError where processes have taken different weights."""
        # A checksum is a number below 2^64, and tensors hold signed ones.
        own = torch.tensor(checksum(self.backbone) - 2**63, device=module.device)
        sums = module.all_gather(own).flatten().tolist()
        if odd := [rank for rank, other in enumerate(sums) if other != sums[0]]:
            raise TeacherError(
                f"Round {self.round + 1} begins with other weights on process "
                f"{', '.join(map(str, odd))} than on process 0 (checksums differ): a "
                "callback changes them on some processes alone, their gradients are "
                "not averaged, or devices of several kinds round otherwise; take that "
                "out, use strategy=ddp on devices of one kind, and resume from the "
                "last checkpoint."
            )


def compile_blocks(network: nn.Module) -> None:
    """Compile each block of a network in place; names of parameters stay.

    Blocks, the members of its lists of modules, share one compilation, which takes
    seconds where the whole network would take minutes.
    """
    for module in network.modules():
        if isinstance(module, nn.ModuleList):
            for block in module:
                block.compile()


def checksum(module: nn.Module) -> int:
    """Return a number that changes with any bit of the parameters, equal on all devices.

    Bit patterns as integers, each weighed by its place, summed modulo 2^64.
    """
    total, count = 0, 0
    for p in module.parameters():
        bits = p.detach().contiguous().view(-1).view(_INTEGERS[p.element_size()])
        for part in bits.split(_AT_ONCE):
            place = torch.arange(count + 1, count + len(part) + 1, device=part.device)
            total += int((part * place).sum(dtype=torch.int64))
            count += len(part)
    return total % 2**64


def whole(module: nn.Module, write: bool = False):
    """Return a context in which a sharded module's parameters are whole everywhere.

    All processes enter it together. write: keep what is written to them meanwhile.
    Modules that FSDP has not wrapped stay as they are.
    """
    if not is_sharded(module):
        return contextlib.nullcontext()
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel.summon_full_params(module, writeback=write)


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return what `state_dict` holds, by the names that it has without FSDP."""
    found = dict(module.named_parameters(remove_duplicate=False))
    for prefix, part in module.named_modules():
        for name, buffer in part._buffers.items():
            if buffer is not None and name not in part._non_persistent_buffers_set:
                found[f"{prefix}.{name}" if prefix else name] = buffer
    return {name.replace(f"{FSDP_INNER}.", ""): tensor for name, tensor in found.items()}
