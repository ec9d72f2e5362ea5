"""Supply packages that the hosts import and a machine may lack.

They come from a finder at the END of `sys.meta_path`: a package that is installed is
found before it, and its missing submodules are not filled in. They have no `__file__`,
no `__version__` and no distribution, so that a library that asks whether it may use
the real package learns that it may not.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

# The names of each module. Those of flash_attn are in our module of that name; MDLM
# imports the others without calling them.
MODULES = {
    "flash_attn": (),
    "flash_attn.flash_attn_interface": ("flash_attn_varlen_qkvpacked_func",),
    "flash_attn.layers": (),
    "flash_attn.layers.rotary": ("apply_rotary_emb_qkv_", "apply_rotary_emb_torch"),
    "mamba_ssm": (),
    "mamba_ssm.ops": (),
    "mamba_ssm.ops.selective_scan_interface": ("mamba_inner_fn", "selective_scan_fn"),
    "mamba_ssm.ops.triton": (),
    "mamba_ssm.ops.triton.selective_state_update": ("selective_state_update",),
    "causal_conv1d": ("causal_conv1d_fn", "causal_conv1d_update"),
}

SENTENCES = {
    "flash_attn": "flash-attn is not installed: attention and rotary embedding run in "
    "plain PyTorch.",
    "mamba_ssm": "mamba-ssm is not installed: its names can be imported, not called.",
    "causal_conv1d": "causal-conv1d is not installed: its names can be imported, not called.",
}


def _absent(name: str, package: str):
    def missing(*args, **kwargs):
        raise NotImplementedError(
            f"{name} is not here: install {package} (it needs CUDA) to run the Mamba "
            "backbone, or choose backbone=dit."
        )

    return missing


class _Loader(Loader):
    def exec_module(self, module) -> None:
        package = module.__name__.partition(".")[0]
        for name in MODULES[module.__name__]:
            if package == "flash_attn":
                ours = importlib.import_module(f"{__package__}.flash_attn")
                setattr(module, name, getattr(ours, name))
            else:
                setattr(module, name, _absent(name, package.replace("_", "-")))
        if module.__name__ == "flash_attn":
            # As in the real package, whose `__init__` imports it.
            importlib.import_module("flash_attn.flash_attn_interface")


class Finder(MetaPathFinder):
    """Find the modules above, where nothing else has their package."""

    def find_spec(self, name, path=None, target=None) -> ModuleSpec | None:
        if name not in MODULES:
            return None
        parent = name.rpartition(".")[0]
        if parent:
            above = getattr(sys.modules.get(parent), "__spec__", None)
            if not isinstance(getattr(above, "loader", None), _Loader):
                return None
        package = any(other.startswith(f"{name}.") for other in MODULES)
        return ModuleSpec(name, _Loader(), is_package=package)


def supply() -> list[str]:
    """Append the finder; return a sentence for each package that is missing."""
    missing = [name for name in SENTENCES if importlib.util.find_spec(name) is None]
    if missing:
        sys.meta_path.append(Finder())
    return [SENTENCES[name] for name in missing]
