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


def _asked(config) -> int:
    """`trainer.devices` of a host's config; 1 where it has none or no number."""
    devices = getattr(getattr(config, "trainer", None), "devices", None)
    return int(devices) if str(devices).isdecimal() else 1


def count_for(folders: Folders, count):
    """`torch.cuda.device_count` that does not answer 0 to the hosts' own code.

    Their modules, told by the caller's file, ask in order to share the global batch
    between processes: to a function that has a `config` the answer is its
    `trainer.devices`, to others 1. So it is to OmegaConf, which asks only as the hosts'
    resolver `${device_count:}`. Lightning and all others keep seeing 0.
    """

    @functools.wraps(count)
    def device_count() -> int:
        caller = sys._getframe(1)
        asks = caller.f_globals
        if folders.hold(asks.get("__file__")):
            return max(_asked(caller.f_locals.get("config")), 1)
        if asks.get("__name__", "").partition(".")[0] == "omegaconf":
            return max(count(), 1)
        return count()

    return device_count


def supply(folders: Folders) -> list[str]:
    """Patch `torch.cuda.device_count`, and silence warnings about autocast."""
    torch.cuda.device_count = count_for(folders, torch.cuda.device_count)
    for message in NEEDLESS_WARNINGS:
        warnings.filterwarnings("ignore", message=re.escape(message))
    return [
        "CUDA is not available: the host's own code counts as many devices "
        "as trainer.devices says, and finds the CPU wherever it names 'cuda'."
    ]
