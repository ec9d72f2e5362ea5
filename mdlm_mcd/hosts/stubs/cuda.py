"""Have the hosts' own code find the CPU on a machine without CUDA."""

from __future__ import annotations

import functools
import re
import sys
import warnings

import torch

from .sources import Folders, HostFinder

# What autocast for CUDA says where there is none; in the words of torch 2.3 to 2.13.
NEEDLESS_WARNINGS = (
    "`torch.cuda.amp.autocast(args...)` is deprecated.",
    "CUDA is not available or torch_xla is imported. Disabling autocast.",
    "User provided device_type of 'cuda', but CUDA is not available. Disabling",
)


def _devices(config) -> int:
    """Return `trainer.devices` of a host's config; 1 where it is no number above 0."""
    devices = getattr(getattr(config, "trainer", None), "devices", None)
    return max(int(devices), 1) if str(devices).isdecimal() else 1


def count_for(folders: Folders, count):
    """Wrap `torch.cuda.device_count` so that it is not 0 for the hosts' own code.

    Their modules, known by the caller's file, ask in order to share the global batch
    between processes: a function that has a `config` gets its `trainer.devices`, others
    1. So does OmegaConf, which asks only as the hosts' resolver `${device_count:}`.
    Lightning and all others keep seeing 0.
    """

    @functools.wraps(count)
    def device_count() -> int:
        caller = sys._getframe(1)
        scope = caller.f_globals
        if folders.hold(scope.get("__file__")):
            return _devices(caller.f_locals.get("config"))
        if scope.get("__name__", "").partition(".")[0] == "omegaconf":
            return max(count(), 1)
        return count()

    return device_count


def supply(folders: Folders) -> list[str]:
    """Patch `device_count`, rename devices, and silence warnings about autocast."""
    sys.meta_path.insert(0, HostFinder(folders))
    torch.cuda.device_count = count_for(folders, torch.cuda.device_count)
    for message in NEEDLESS_WARNINGS:
        warnings.filterwarnings("ignore", message=re.escape(message))
    return [
        "CUDA is not available: the host's own code counts as many devices "
        "as trainer.devices says, and finds the CPU wherever it names 'cuda'."
    ]
