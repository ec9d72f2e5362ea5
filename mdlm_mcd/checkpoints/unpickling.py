"""Open `torch.save` files without importing or calling anything that they name.

The hosts' checkpoints pickle a Hydra config and a tokenizer beside the weights, which
torch's `weights_only` loading refuses. Here what torch itself declares safe is made, plain
containers and numbers are, and an inert object stands in for everything else.
"""

from __future__ import annotations

import codecs
import collections
import pickle
from _compat_pickle import IMPORT_MAPPING
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from ..errors import cause, shown
from .files import damage
from .sanitize import Inert


class _Mapping:
    """Stand in for a subclass of dict."""

    def __new__(cls, *args):
        return {}


_KNOWN: dict[str, Any] = {
    "collections.defaultdict": _Mapping,
    "numpy.dtype": np.dtype,
    # Tensors and parameters without the attributes that a file gives them.
    "torch._tensor._rebuild_from_type_v2": lambda rebuild, kind, args, state: rebuild(*args),
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *rest: tensor,
}
for _core in ("core", "_core"):  # a learning rate may be a scalar of numpy
    _KNOWN[f"numpy.{_core}.multiarray.scalar"] = lambda dtype, data: np.frombuffer(data, dtype)[0]
# Not every release of torch declares these safe.
for _safe in (set, frozenset, bytes, bytearray, complex, collections.Counter, torch.device):
    _KNOWN[f"{_safe.__module__}.{_safe.__qualname__}"] = _safe
_KNOWN["_codecs.encode"] = codecs.encode  # how bytes are pickled
_KNOWN |= {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}


class _Unpickler(pickle._Unpickler):
    """Read with stand-ins. In Python, so that BUILD, which sets attributes, is restricted."""

    names: set[str]

    def find_class(self, module: str, name: str):
        full = f"{IMPORT_MAPPING.get(module, module)}.{name}"
        found = _KNOWN.get(full) or torch._weights_only_unpickler._get_allowed_globals().get(full)
        if found is None and name == "AttributeDict":  # Lightning's, of four modules
            found = _Mapping
        if found is None:
            self.names.add(full)
        return found or Inert

    def load_build(self):
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, Inert):
            made.state = state
        elif type(made) is collections.OrderedDict and isinstance(state, dict):
            made._metadata = state.get("_metadata")  # of a state_dict
        elif not (isinstance(made, np.dtype) and state[1] in ("<", "|")):  # as it is already
            raise pickle.UnpicklingError(f"it sets the state of a {type(made).__name__}")

    dispatch = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}


def reader() -> Any:
    """Return a `pickle_module` for `torch.load`; its `Unpickler.names` are what it left out."""
    kind = type("Unpickler", (_Unpickler,), {"names": set()})
    return SimpleNamespace(Unpickler=kind, __name__=__name__)


def load(path: str) -> tuple[Any, set[str]]:
    """Return what `torch.save` wrote to `path`, and the names of the classes left out.

    Tensors are mapped from the file, so none can be larger than it. Raises
    UnpicklingError, and whatever else torch raises for a damaged file.
    """
    if why := damage(path):
        raise pickle.UnpicklingError(why)
    how = {"map_location": "cpu", "mmap": True, "weights_only": False}
    module = reader()
    return torch.load(path, pickle_module=module, **how), module.Unpickler.names


def reason(error: Exception) -> str:
    """Return what an exception of `torch.load` says, on one line, without torch's advice."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if str(error).startswith("Weights only load failed") and len(lines) > 2:
        return shown(lines[-2].strip().removeprefix("WeightsUnpickler error: "), 200)
    return cause(error)
