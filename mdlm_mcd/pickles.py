"""PyTorch files opened without the classes, or any code, that they name.

Checkpoints of the public hosts pickle their Hydra config and their tokenizer. They
are read here by an unpickler that builds tensors and plain containers and leaves an
inert placeholder for everything else.
"""

from __future__ import annotations

import pickle
import tarfile
import zipfile
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

_TYPES = {
    ("builtins", "set"), ("builtins", "frozenset"), ("builtins", "dict"),
    ("builtins", "list"), ("builtins", "tuple"), ("builtins", "int"),
    ("builtins", "float"), ("builtins", "bool"), ("builtins", "str"),
    ("builtins", "complex"), ("builtins", "bytearray"), ("builtins", "bytes"),
    ("collections", "OrderedDict"), ("collections", "defaultdict"),
    ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter"),
    ("torch", "Size"), ("torch", "device"),
    ("torch.serialization", "_get_layout"),
    ("torch.storage", "UntypedStorage"), ("torch", "UntypedStorage"),
}  # fmt: skip
_TYPES |= {
    ("torch", f"{name}Storage")
    for name in ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short",
                 "Char", "Byte", "Bool")
}  # fmt: skip


class _Inert:
    """Takes the place of an object of a type that is not on the list.

    It keeps the state that was pickled, for `plain`, and does nothing with it.
    """

    state: Any = None

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        self.state = state

    def __call__(self, *args, **kwargs):
        return self

    def __setitem__(self, key, value):
        pass

    def append(self, value):
        pass

    def extend(self, values):
        pass

    def add(self, value):
        pass

    __hash__ = object.__hash__


class _Dict(dict):
    """In place of Lightning's `AttributeDict`, which holds hyperparameters."""

    def __setstate__(self, state):
        pass


class _DType:
    """In place of `numpy.dtype`, whose objects are shared: its name and byte order."""

    order = "="

    def __init__(self, name, *rest):
        self.name = name

    def __setstate__(self, state):
        self.order = state[1] if state[1] in ("<", ">") else "="


def _numpy_scalar(dtype: _DType, data: bytes):
    kind = np.dtype(dtype.name).newbyteorder(dtype.order)
    return np.frombuffer(data, dtype=kind)[0]


def _bytes(text: str, encoding: str) -> bytes:
    """How pickle spells bytes in the protocol that `torch.save` uses."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


_STAND_FOR = {
    ("lightning.fabric.utilities.data", "AttributeDict"): _Dict,
    ("lightning_fabric.utilities.data", "AttributeDict"): _Dict,
    ("lightning.pytorch.utilities.parsing", "AttributeDict"): _Dict,
    ("pytorch_lightning.utilities.parsing", "AttributeDict"): _Dict,
    ("numpy.core.multiarray", "scalar"): _numpy_scalar,
    ("numpy._core.multiarray", "scalar"): _numpy_scalar,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _bytes,
}


def reader(skipped: set[str]) -> SimpleNamespace:
    """A `pickle_module` for `torch.load`; notes in `skipped` what it leaves out."""

    class Unpickler(pickle._Unpickler):  # in Python: only there BUILD can be refused
        dispatch = dict(pickle._Unpickler.dispatch)

        def load_build(self):
            # It sets attributes; on a class or a function they would be everybody's.
            if not isinstance(self.stack[-2], (dict, _Inert, _DType)):
                raise pickle.UnpicklingError(
                    f"the state of a {type(self.stack[-2]).__name__} is not read"
                )
            super().load_build()

        dispatch[pickle.BUILD[0]] = load_build

        def find_class(self, module: str, name: str):
            if module == "__builtin__":  # torch writes the protocol of Python 2
                module, name = "builtins", {"long": "int"}.get(name, name)
            if (module, name) in _TYPES:
                return super().find_class(module, name)
            if (module, name) in _STAND_FOR:
                return _STAND_FOR[module, name]
            if module == "torch" and isinstance(
                getattr(torch, name, None), torch.dtype
            ):
                return getattr(torch, name)
            skipped.add(f"{module}.{name}")
            # A class of its own each time: `BUILD` on it must not touch shared state.
            return type(name, (_Inert,), {})

    return SimpleNamespace(
        Unpickler=Unpickler,
        UnpicklingError=pickle.UnpicklingError,
        load=lambda file, **kwargs: Unpickler(file, **kwargs).load(),
        __name__=__name__,
    )


def _refuse_programs(path: str) -> None:
    """TorchScript runs when it is opened, and torch opens it unasked; tar unpacks."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
        if any("/code/" in n or n.endswith("constants.pkl") for n in names):
            raise pickle.UnpicklingError("it is a TorchScript program, not weights")
    elif tarfile.is_tarfile(path):
        raise pickle.UnpicklingError("it is a tar archive of an old torch")


def load(path: str) -> tuple[Any, set[str]]:
    """What `torch.save` wrote to `path`, on the CPU, and the types left out of it.

    Raises whatever torch and pickle raise for a file that is none of theirs, and
    UnpicklingError for one that torch would run or unpack.
    """
    _refuse_programs(path)
    skipped: set[str] = set()
    held = torch.load(
        path, map_location="cpu", pickle_module=reader(skipped), weights_only=False
    )
    return held, skipped


def plain(value: Any) -> Any:
    """Containers, strings and numbers of a pickled config, OmegaConf's included.

    A node of OmegaConf keeps its children under `_content` or its value under
    `_val`. Whatever else is not plain becomes None; interpolations stay text.
    """
    if isinstance(value, _Inert):
        state = value.state if isinstance(value.state, dict) else {}
        return plain(state.get("_content", state.get("_val")))
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if isinstance(k, str)}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value if isinstance(value, (str, int, float, bool)) else None
