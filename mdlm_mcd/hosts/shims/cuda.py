"""What the hosts ask of CUDA, answered on a machine without it."""

from __future__ import annotations

import functools
import re
import sys
import warnings

import torch

from .sources import Folders

# What autocast for CUDA says where there is none; in the words of torch 2.3 to 2.13.
NEEDLESS_WARNINGS = (
    "`torch.cuda.amp.autocast(args...)` is deprecated.",
    "CUDA is not available or torch_xla is imported. Disabling autocast.",
    "User provided device_type of 'cuda', but CUDA is not available. Disabling",
)


def count_for(folders: Folders, count):
    """`torch.cuda.device_count` that answers 1 instead of 0 to the hosts' own code.

    To their modules, by the caller's file, and to OmegaConf, which asks only as the
    hosts' resolver `${device_count:}`. Lightning and all others keep seeing 0.
    """

    @functools.wraps(count)
    def device_count() -> int:
        asks = sys._getframe(1).f_globals
        from_config = asks.get("__name__", "").partition(".")[0] == "omegaconf"
        if from_config or folders.hold(asks.get("__file__")):
            return max(count(), 1)
        return count()

    return device_count


def supply(folders: Folders) -> list[str]:
    """Patch `torch.cuda.device_count`, and silence warnings about autocast."""
    torch.cuda.device_count = count_for(folders, torch.cuda.device_count)
    for message in NEEDLESS_WARNINGS:
        warnings.filterwarnings("ignore", message=re.escape(message))
    return [
        "CUDA is not available: the host's own code counts one device, the CPU, and "
        "finds it wherever it names 'cuda'."
    ]
