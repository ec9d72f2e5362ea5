"""Let an unmodified MDLM or Duo run where its usual machine is not.

Nothing is replaced where the real thing is present. Docs: docs/hosts.md.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

from . import cpu, loading
from .cpu import compiled

__all__ = ["compiled", "default_overrides", "install"]

# Packages that the hosts import and a machine may lack. What stands in for them is in
# `packages/`, at the END of `sys.path`: an installed package is found before it, and is
# not completed. No version and no distribution: a library that asks whether it may use
# the real package learns that it may not.
PACKAGES = {
    "flash_attn": "flash-attn is not installed: attention and rotary embedding run in "
    "plain PyTorch.",
    "mamba_ssm": "mamba-ssm is not installed: its names are None; use backbone=dit.",
    "causal_conv1d": "causal-conv1d is not installed: its names are None; use backbone=dit.",
}


def install(host: str | Path | None = None) -> list[str]:
    """Supply what this machine lacks; return a sentence for each thing supplied.

    host: the folder of the host's `main.py` (the current one by default), none of whose
    modules is imported yet. Called again it adds that folder and returns the same.
    """
    cpu.add_folder(host or os.getcwd())
    return _supply()


@functools.cache
def _supply() -> list[str]:
    return _supply_packages() + loading.supply() + cpu.supply()


def _supply_packages() -> list[str]:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        sys.path.append(str(Path(__file__).parent / "packages"))
    return [PACKAGES[name] for name in missing]


def default_overrides(given: Iterable[str] = ()) -> list[str]:
    """Return the Hydra overrides that a machine without CUDA needs, of either host.

    given: the user's overrides, or their keys; what they set is left to them. An
    empty list where there is CUDA.
    """
    if torch.cuda.is_available():
        return []
    needed = {
        "trainer.accelerator": "cpu",  # on a Mac too: MPS has no float64, in which hosts measure
        "trainer.devices": "1",
        # bf16 on a CPU would also reach what the hosts keep in float32, which they
        # do by autocast regions for CUDA.
        "trainer.precision": "32",
        "loader.pin_memory": "False",
    }
    if not hasattr(os, "sched_getaffinity"):
        # The hosts count their workers with it, and do not take 0.
        needed["loader.num_workers"] = "1"
    keys = {text.lstrip("+~").partition("=")[0] for text in given}
    return [f"{key}={value}" for key, value in needed.items() if key not in keys]
