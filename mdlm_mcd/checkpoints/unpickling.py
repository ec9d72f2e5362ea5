"""Open `torch.save` files without importing or calling anything that they name.

The hosts' checkpoints pickle a Hydra config and a tokenizer beside the weights, which
torch's `weights_only` loading refuses. Here an inert class stands in for each class that
torch does not know: it keeps the state that was pickled and does nothing with it.
"""

from __future__ import annotations

import codecs
import collections
import os
import pickle
import zipfile
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import torch

from ..errors import cause, shown
from . import sanitize
from .files import damage

MOST_NAMES = 250  # classes in one file; torch takes time quadratic in their number


class Inert:
    """Stand in for an object of an unknown class; keep its state."""

    __slots__ = ("state",)

    def __new__(cls, *args, **kwargs):
        made = super().__new__(cls)
        made.state = None
        return made

    def __setstate__(self, state):
        self.state = state


class _Mapping:
    """Stand in for a subclass of dict."""

    def __new__(cls, *args):
        return {}


class _DType(Inert):
    """Stand in for `numpy.dtype`, whose own `__setstate__` trusts its argument."""

    __slots__ = ("name",)

    def __new__(cls, name, *args):
        made = super().__new__(cls)
        made.name = name
        return made


class _Scalar:
    """Stand in for numpy's function that makes a scalar; a learning rate may be one."""

    def __new__(cls, dtype: _DType, data: bytes):
        order = dtype.state[1] if dtype.state else "="
        return np.frombuffer(data, np.dtype(dtype.name).newbyteorder(order))[0]


_STAND_INS = {
    "collections.defaultdict": _Mapping,
    "lightning.fabric.utilities.data.AttributeDict": _Mapping,
    "lightning_fabric.utilities.data.AttributeDict": _Mapping,
    "lightning.pytorch.utilities.parsing.AttributeDict": _Mapping,
    "pytorch_lightning.utilities.parsing.AttributeDict": _Mapping,
    "numpy.dtype": _DType,
    "numpy.core.multiarray.scalar": _Scalar,
    "numpy._core.multiarray.scalar": _Scalar,
}
# Every release of torch knows some of these itself.
_KNOWN = {
    f"{known.__module__}.{known.__qualname__}": known
    for known in (
        set,
        frozenset,
        bytes,
        bytearray,
        complex,
        codecs.encode,  # how bytes are pickled
        collections.Counter,
        torch.device,
    )
} | {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}


def _stand_in(full: str) -> Any:
    if full in _KNOWN:
        return _KNOWN[full]
    module, _, name = full.rpartition(".")
    bases = (_STAND_INS.get(full, Inert),)
    # torch finds a safe class by these two attributes.
    return type(name, bases, {"__slots__": (), "__module__": module, "__qualname__": name})


@contextmanager
def stand_ins(file: str | os.PathLike | IO[bytes]) -> Iterator[set[str]]:
    """Let `torch.load(file, weights_only=True)` open a file of any classes; torch >= 2.6.

    Yield the names of the classes that are replaced. What the program has declared safe
    is not constructed either. Raises UnpicklingError, and torch's errors for a file that
    is none of its own.
    """
    torch_own = torch.serialization
    declared = torch_own.get_safe_globals()
    torch_own.clear_safe_globals()
    try:
        names = set(torch_own.get_unsafe_globals_in_checkpoint(file))
        if len(names) > MOST_NAMES:
            raise pickle.UnpicklingError(f"it names {len(names)} classes")
        torch_own.add_safe_globals([_stand_in(name) for name in names])
        yield names - _KNOWN.keys()
    finally:
        torch_own.clear_safe_globals()
        torch_own.add_safe_globals(declared)


class _Unpickler(pickle._Unpickler):
    """Read with stand-ins under torch < 2.6. In Python, so that BUILD can be restricted."""

    names: set[str]

    def find_class(self, module: str, name: str):
        full = f"{IMPORT_MAPPING.get(module, module)}.{name}"
        known = torch._weights_only_unpickler._get_allowed_globals()
        if full in known:
            return known[full]
        if full not in _KNOWN:
            self.names.add(full)
        return _stand_in(full)

    def load_build(self):
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, Inert):
            made.state = state
        elif type(made) is collections.OrderedDict:  # `_metadata` of a state_dict
            made.__dict__.update(state)
        else:  # it would set attributes of classes and functions
            raise pickle.UnpicklingError(f"it sets the state of a {type(made).__name__}")

    dispatch = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}


def load(path: str) -> tuple[Any, set[str]]:
    """Return what `torch.save` wrote to `path`, and the names of the classes left out.

    Tensors are mapped from the file, so none can be larger than it. Raises
    UnpicklingError, and whatever else torch raises for a damaged file.
    """
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            pickled = file.read(1) == pickle.PROTO
        raise pickle.UnpicklingError(
            "it is a bare pickle, as torch wrote before 1.6 and Duo writes its cache of "
            "integrals, which is not needed here; save weights again with a newer torch"
            if pickled
            else "it is not a file that torch.save wrote"
        )
    if why := damage(path):
        raise pickle.UnpicklingError(why)
    how = {"map_location": "cpu", "mmap": True}
    if hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        with stand_ins(path) as names:
            return torch.load(path, weights_only=True, **how), names
    reader = type("Reader", (_Unpickler,), {"names": set()})
    module = SimpleNamespace(Unpickler=reader, __name__=__name__)
    return torch.load(path, weights_only=False, pickle_module=module, **how), reader.names


def reason(error: Exception) -> str:
    """Return what an exception of `load` says, on one line, without torch's advice."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if str(error).startswith("Weights only load failed") and len(lines) > 2:
        return shown(lines[-2].strip().removeprefix("WeightsUnpickler error: "), 200)
    return cause(error)


def plain(value: Any) -> Any:
    """Return the containers, text and numbers of a pickled config, OmegaConf's included.

    A node of OmegaConf has its children in `_content` or its value in `_val`;
    interpolations stay text. All else becomes None. Raises ValueError (`sanitize.copy`).
    """

    def unwrap(value):
        if not isinstance(value, Inert):
            return value
        state = value.state if isinstance(value.state, dict) else {}
        return state.get("_content", state.get("_val"))

    return sanitize.copy(value, unwrap)
