"""Load the hosts' modules with the CPU in place of the CUDA devices they name.

`.to('cuda')`, the default of a parameter `device` and an argument `device='cuda'`, and
only these, are read as `"cpu"` while a module of a host's folder is compiled, and
`torch.cuda.device_count` as the function of that name below. Neither the file nor its
bytecode cache is touched. `autocast('cuda')` stays: without CUDA it does nothing.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
)
from importlib.util import decode_source
from pathlib import Path
from types import CodeType

import torch

# What autocast for CUDA says where there is none; in the words of torch 2.3 to 2.13.
NEEDLESS_WARNINGS = (
    "`torch.cuda.amp.autocast(args...)` is deprecated.",
    "CUDA is not available or torch_xla is imported. Disabling autocast.",
    "User provided device_type of 'cuda', but CUDA is not available. Disabling",
)
# The first argument of `to` or `device`; an argument or parameter `device`, also annotated.
DEVICE = re.compile(
    r"""(\b(?:to\(|device\(|device\s*(?::\s*(?:str|torch)\b[^=\n]*)?=)\s*)(["'])cuda(?::\d+)?\2"""
)
_folders: list[Path] = []  # the hosts'


def add_folder(folder: str | os.PathLike) -> None:
    _folders.append(Path(folder).resolve())
    sys.path_importer_cache.clear()


def device_count() -> int:
    """Return how many devices the hosts' own code counts, which is never 0.

    They share the global batch by it: a function that has a `config` gets its
    `trainer.devices`, others 1. So does OmegaConf, as their resolver `${device_count:}`.
    """
    caller = sys._getframe(1)
    if caller.f_globals.get("__name__", "").startswith("omegaconf"):
        return 1  # its `config` is the one that is being resolved
    trainer = getattr(caller.f_locals.get("config"), "trainer", None)
    devices = str(getattr(trainer, "devices", None))
    return max(int(devices), 1) if devices.isdecimal() else 1


def compiled(path: str | os.PathLike, source: str | None = None) -> CodeType:
    """Compile a host's file, with the CPU for CUDA devices where there is no CUDA.

    source: its text, where that is not what the file contains. Raises SyntaxError when it
    is no Python.
    """
    source = decode_source(Path(path).read_bytes()) if source is None else source
    if not torch.cuda.is_available():
        ours = f"__import__({__name__!r}, fromlist=['device_count']).device_count"
        source = DEVICE.sub(r"\1\2cpu\2", source).replace("torch.cuda.device_count", ours)
    return compile(source, os.fspath(path), "exec", dont_inherit=True)


class _HostLoader(SourceFileLoader):
    def get_code(self, fullname):
        # Past the bytecode cache, which would keep the changed code for others.
        return compiled(self.get_filename(fullname))


def _finder(folder: str) -> FileFinder:
    path = Path(folder).resolve()
    inside = [path.relative_to(root) for root in _folders if path.is_relative_to(root)]
    # Of an environment in the host's folder, files are not the host's.
    if all({"site-packages", "dist-packages"} & set(rest.parts) for rest in inside):
        raise ImportError(f"{folder} is no host's")  # the next of `sys.path_hooks` finds it
    compiled_ones = (ExtensionFileLoader, EXTENSION_SUFFIXES)
    return FileFinder(folder, compiled_ones, (_HostLoader, SOURCE_SUFFIXES))


def supply() -> list[str]:
    """Load the hosts' modules for the CPU; silence warnings about autocast."""
    if torch.cuda.is_available():
        return []
    sys.path_hooks.insert(0, _finder)
    sys.path_importer_cache.clear()
    for message in NEEDLESS_WARNINGS:
        warnings.filterwarnings("ignore", message=re.escape(message))
    return [
        "CUDA is not available: the host's own code counts as many devices "
        "as trainer.devices says, and finds the CPU wherever it names 'cuda'."
    ]
