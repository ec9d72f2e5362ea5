"""Files as `torch.save` writes them, around pickles that it would not write."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict

import torch

REBUILD = torch._utils._rebuild_tensor_v2


class Call:
    """When unpickled as Python does it: the function, called."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        function, *args = self.call
        return function, tuple(args)


class WithState(Call):
    """The same, the result then given a state: the last argument."""

    def __reduce__(self):
        function, *args, state = self.call
        return function, tuple(args), state


class Stored:
    """A reference to stored numbers."""

    def __init__(self, count=4, key="0"):
        self.id = ("storage", torch.FloatStorage, key, "cpu", count)


class _Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.id if isinstance(value, Stored) else None


def tensor(stored=None, offset=0, size=(4,), stride=(1,)):
    return Call(REBUILD, stored or Stored(), offset, size, stride, False, OrderedDict())


def archive(members: dict[str, bytes], compress=False) -> bytes:
    out = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", kind) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return out.getvalue()


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist()}


def checkpoint(value, stored=bytes(16), compress=False) -> bytes:
    """value: any object, or the bytes of a pickle."""
    out = io.BytesIO()
    if not isinstance(value, bytes):
        _Pickler(out, protocol=2).dump(value)
    parts = {"data.pkl": out.getvalue() or value, "byteorder": b"little", "data/0": stored}
    return archive({f"x/{name}": x for name, x in {**parts, "version": b"3\n"}.items()}, compress)
