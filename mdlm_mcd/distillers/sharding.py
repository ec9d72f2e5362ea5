"""Modules whose weights are spread over processes (`FullyShardedDataParallel`)."""

from __future__ import annotations

import contextlib

import torch.nn as nn
from torch import Tensor

from ..head import FSDP_INNER, is_sharded


def whole(module: nn.Module, write: bool = False):
    """A context in which a sharded module's parameters are whole in every process.

    All processes enter it together. write: keep what is written to them meanwhile.
    Other modules are left as they are.
    """
    if not is_sharded(module):
        return contextlib.nullcontext()
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel.summon_full_params(module, writeback=write)


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """What `state_dict` holds, by the names that it has without FSDP."""
    found = dict(module.named_parameters(remove_duplicate=False))
    for prefix, part in module.named_modules():
        for name, buffer in part._buffers.items():
            if buffer is not None and name not in part._non_persistent_buffers_set:
                found[f"{prefix}.{name}" if prefix else name] = buffer
    return {name.replace(f"{FSDP_INNER}.", ""): tensor for name, tensor in found.items()}
