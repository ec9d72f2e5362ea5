"""What a pickle may build here: the explicit list, and placeholders for the rest.

Nothing on the list is the function that a file names; each is one of ours, which looks
at what it is given before it makes a tensor, a container or a number.
"""

from __future__ import annotations

import collections
import pickle
import re
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import shown


def refuse(why: str) -> Any:
    raise pickle.UnpicklingError(why)


class Inert:
    """Takes the place of an object of a type that is not on the list.

    It keeps the state that was pickled, for `plain`, and does nothing with it.
    """

    __slots__ = ("kind", "state")

    def __init__(self, kind: str):
        self.kind, self.state = kind, None


class Foreign:
    """A name that is not on the list; what it is called with is dropped."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def __call__(self, *args) -> Inert:
        return Inert(self.name)


class Storage:
    """A storage class by its element type: a label, not to be called."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype


class Hyper(dict):
    """In place of Lightning's `AttributeDict`, which holds hyperparameters."""


class DType:
    """In place of `numpy.dtype`, whose objects are shared: its name and byte order."""

    order = "="

    def __init__(self, name, *rest):
        self.name = name

    def build(self, state):
        self.order = state[1] if state[1] in ("<", ">") else "="


def numpy_scalar(dtype: DType, data: bytes):
    if not re.fullmatch(r"[biufc]\d{1,2}", dtype.name):
        raise ValueError(f"a numpy scalar of kind {shown(dtype.name)}")
    kind = np.dtype(dtype.name).newbyteorder(dtype.order)
    return np.frombuffer(data, dtype=kind)[0]


def latin_bytes(text: str, encoding: str) -> bytes:
    """How pickle spells bytes in the protocol that `torch.save` uses."""
    if encoding != "latin1":
        refuse(f"bytes in the encoding {shown(encoding)}")
    return text.encode("latin1")


def _empty_or_latin(kind: type, *args):
    """`bytes()`, `bytearray(b"..")`, `bytearray("..", "latin-1")`; never by length."""
    if not args:
        return kind()
    if isinstance(args[0], str):
        args = (args[0].encode("latin1"),)
    if not isinstance(args[0], bytes):
        refuse(f"a {kind.__name__} made of a {type(args[0]).__name__}")
    return kind(args[0])


_SCALARS = (
    str,
    int,
    float,
    complex,
    bytes,
    type(None),
    torch.dtype,
    torch.device,
    np.generic,
    Inert,
    Foreign,
)


# Python's hashes of text differ from run to run; those of numbers anybody can compute,
# and among enough keys of one hash a look-up takes minutes.
_MOST_ALONE = 2**61 - 1  # its own hash
_MOST_IN_TUPLE = 2**31


def _spread(part, most: int) -> bool:
    """Whether keys of this kind cannot all be given the same hash."""
    if isinstance(part, (int, np.integer)):
        return -most < int(part) < most
    if isinstance(part, (float, np.floating)):
        return most == _MOST_ALONE  # some thirty have one hash
    return not isinstance(part, (complex, np.complexfloating))


def checked(value):
    """A key or a member of a set: hashing what is nested would end the process."""
    alone = not isinstance(value, tuple)
    parts = (value,) if alone else value
    if not all(isinstance(part, _SCALARS) for part in parts):
        refuse(f"a key that is a {type(value).__name__} of other things")
    most = _MOST_ALONE if alone else _MOST_IN_TUPLE
    if not all(_spread(part, most) for part in parts):
        refuse(f"a key that is a {type(value).__name__} of numbers beyond reason")
    return value


def set_of(kind: type, items=()):
    return kind(checked(item) for item in items)


def _dict(kind: type, items=()):
    pairs = items.items() if isinstance(items, dict) else items
    return kind((checked(key), value) for key, value in pairs)


def _default(factory=None, items=()):
    return _dict(dict, items)  # a factory is a function to call: left out


def _complex(real: float, imag: float) -> complex:
    return complex(real, imag)


def _size(dims) -> torch.Size:
    return torch.Size(dims)


def _device(*args) -> torch.device:
    return torch.device(*args)


def _layout(name: str) -> torch.layout:
    found = getattr(torch, name, None)
    return found if isinstance(found, torch.layout) else refuse("an unknown layout")


def _tensor(storage, offset, size, stride, requires_grad=False, *rest) -> Tensor:
    """A tensor inside its storage, each element of which it shows at most once.

    torch would grow a storage that is too small, and let four bytes be a terabyte.
    """
    if not isinstance(storage, (Tensor, torch.storage.TypedStorage)):
        refuse(f"a tensor over a {type(storage).__name__}")
    typed = storage.untyped_storage() if isinstance(storage, Tensor) else (storage._untyped_storage)
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(type(n) is int and 0 <= n < 2**48 for n in numbers):
        refuse("a tensor whose shape is no shape")
    room = typed.nbytes() // storage.dtype.itemsize
    count, last = 1, offset
    for n, step in zip(size, stride, strict=True):
        count *= n
        last += (n - 1) * step
    if count and (count > room or last >= room):
        refuse(f"a tensor of shape {tuple(size)} over {room} stored numbers")
    empty = torch.empty(0, dtype=storage.dtype, device=typed.device)
    return empty.set_(typed, offset, tuple(size), tuple(stride)).requires_grad_(bool(requires_grad))


def _parameter(data: Tensor, requires_grad=True, *hooks) -> torch.nn.Parameter:
    if not isinstance(data, Tensor):
        refuse(f"a parameter that is a {type(data).__name__}")
    return torch.nn.Parameter(data.detach(), bool(requires_grad))


# The explicit list. Types that are only ever referred to (`builtins.int` in a config's
# metadata) are foreign like any other, without a word in the log.
CALLS = {
    "builtins.set": partial(set_of, set),
    "builtins.frozenset": partial(set_of, frozenset),
    "builtins.bytes": partial(_empty_or_latin, bytes),
    "builtins.bytearray": partial(_empty_or_latin, bytearray),
    "builtins.complex": _complex,
    "_codecs.encode": latin_bytes,
    "collections.OrderedDict": partial(_dict, collections.OrderedDict),
    "collections.defaultdict": _default,
    "numpy.core.multiarray.scalar": numpy_scalar,
    "numpy._core.multiarray.scalar": numpy_scalar,
    "numpy.dtype": DType,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
    "torch.device": _device,
    "torch.serialization._get_layout": _layout,
}
for _module in (
    "lightning.fabric.utilities.data",
    "lightning_fabric.utilities.data",
    "lightning.pytorch.utilities.parsing",
    "pytorch_lightning.utilities.parsing",
):
    CALLS[f"{_module}.AttributeDict"] = partial(_dict, Hyper)
_STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
}
VALUES = {
    f"torch.{name}Storage": Storage(getattr(torch, dtype)) for name, dtype in _STORAGES.items()
}
for _name in ("torch.UntypedStorage", "torch.storage.UntypedStorage"):
    VALUES[_name] = Storage(torch.uint8)
VALUES |= {
    str(found): found
    for found in (getattr(torch, name) for name in sorted(dir(torch)))
    if isinstance(found, torch.dtype)
}
QUIET = {
    f"builtins.{t}"
    for t in ("dict", "list", "tuple", "int", "float", "bool", "str", "object", "type")
}
