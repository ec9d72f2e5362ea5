"""Stand-ins for packages the hosts import and a machine may lack.

They come from a finder at the END of `sys.meta_path`: a package that is installed is
found before it, and its missing submodules are not filled in. They have no `__file__`,
no `__version__` and no distribution, so that a library that asks whether it may use
the real package is told no.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

_ATTENTION = (
    "attention",
    ("flash_attn_func", "flash_attn_qkvpacked_func", "flash_attn_varlen_qkvpacked_func"),
)
_ROTARY = ("rotary", ("apply_rotary_emb", "apply_rotary_emb_qkv_", "apply_rotary_emb_torch"))
_EMPTY = ("absent", ())

# Module: (ours that has its names, the names).
_MODULES = {
    "flash_attn": _ATTENTION,
    "flash_attn.flash_attn_interface": _ATTENTION,
    "flash_attn.layers": _EMPTY,
    "flash_attn.layers.rotary": _ROTARY,
    "mamba_ssm": _EMPTY,
    "mamba_ssm.ops": _EMPTY,
    "mamba_ssm.ops.selective_scan_interface": ("absent", ("mamba_inner_fn", "selective_scan_fn")),
    "mamba_ssm.ops.triton": _EMPTY,
    "mamba_ssm.ops.triton.selective_state_update": ("absent", ("selective_state_update",)),
    "causal_conv1d": ("absent", ("causal_conv1d_fn", "causal_conv1d_update")),
}

SENTENCES = {
    "flash_attn": "flash-attn is not installed: attention and rotary embedding run in "
    "plain PyTorch.",
    "mamba_ssm": "mamba-ssm is not installed: its names can be imported, not called.",
    "causal_conv1d": "causal-conv1d is not installed: its names can be imported, not called.",
}


class _Loader(Loader):
    def exec_module(self, module) -> None:
        ours, names = _MODULES[module.__name__]
        source = importlib.import_module(f"{__package__}.{ours}")
        for name in names:
            setattr(module, name, getattr(source, name))
        if module.__name__ == "flash_attn":
            # As in the real package, whose `__init__` imports it.
            importlib.import_module("flash_attn.flash_attn_interface")


class Finder(MetaPathFinder):
    """Knows the modules above, and only where nothing else has their package."""

    def find_spec(self, name, path=None, target=None) -> ModuleSpec | None:
        if name not in _MODULES:
            return None
        parent = name.rpartition(".")[0]
        if parent:
            above = getattr(sys.modules.get(parent), "__spec__", None)
            if not isinstance(getattr(above, "loader", None), _Loader):
                return None
        package = any(other.startswith(f"{name}.") for other in _MODULES)
        return ModuleSpec(name, _Loader(), is_package=package)


def supply() -> list[str]:
    """Append the finder; answers a sentence for each package that is missing."""
    missing = [name for name in SENTENCES if importlib.util.find_spec(name) is None]
    if missing:
        sys.meta_path.append(Finder())
    return [SENTENCES[name] for name in missing]
