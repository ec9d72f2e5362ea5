"""Let an unmodified MDLM or Duo run where its usual machine is not.

Nothing is replaced where the real thing is present. Docs: docs/without_cuda.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from . import packages, sources

if TYPE_CHECKING:
    from types import CodeType

__all__ = ["compiled", "default_overrides", "install"]

_FOLDERS = sources.Folders()
_supplied: list[str] | None = None


def install(host: str | Path | None = None) -> list[str]:
    """Supply what this machine lacks; return a sentence for each thing supplied.

    host: the folder of the host's `main.py` (the current one by default). To be
    called before the host's modules are imported. Called again it adds that folder
    and returns the same.
    """
    global _supplied
    _FOLDERS.add(host or os.getcwd())
    if _supplied is None:
        import torch

        from . import cuda, loading

        _supplied = packages.supply() + loading.supply()
        if not torch.cuda.is_available():
            _supplied += cuda.supply(_FOLDERS)
    return list(_supplied)


def compiled(path: str | Path, source: str | None = None) -> CodeType:
    """Compile a host's main.py, which is run and not imported, for this machine.

    source: its text, where that is not what the file contains.
    """
    import torch

    if not torch.cuda.is_available():
        return sources.compiled(path, source)
    if source is None:
        source = Path(path).read_bytes()
    return compile(source, os.fspath(path), "exec", dont_inherit=True)


def default_overrides(given: Iterable[str] = ()) -> list[str]:
    """Return the Hydra overrides that a machine without CUDA needs, of either host.

    given: the user's overrides, or their keys; what they set is left to them. An
    empty list where there is CUDA.

    A Mac trains on its CPU too: the hosts keep their metrics in float64, which MPS does
    not have. (Concluded from their code, not tried on such a machine.)
    """
    import torch

    if torch.cuda.is_available():
        return []
    needed = {
        "trainer.accelerator": "cpu",
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
