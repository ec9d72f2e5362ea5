"""The teacher: a frozen snapshot of the student."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from ..checkpoints.weights import load_strictly
from ..head import is_sharded
from ..models.compiling import compile_blocks


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
        self.round = round_index

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
    return {name.replace("_fsdp_wrapped_module.", ""): tensor for name, tensor in found.items()}


def shard(strategy, module: nn.Module) -> nn.Module:
    """Shard `module` by itself, as a Lightning strategy shards its model."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(
        module,
        cpu_offload=strategy.cpu_offload,
        mixed_precision=strategy.mixed_precision_config,
        sharding_strategy=strategy.sharding_strategy,
        device_id=strategy.root_device,
        **strategy.kwargs,
    )
