"""Files as `torch.save` writes them, around pickles that it would not write."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict

import torch


class Call:
    """When unpickled as Python does it: the function, called."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class Stored:
    """A reference to stored numbers."""

    def __init__(self, count=4, key="0"):
        self.id = ("storage", torch.FloatStorage, key, "cpu", count)


class _Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.id if isinstance(value, Stored) else None


def tensor(stored=None, offset=0, size=(4,), stride=(1,)):
    stored = stored or Stored()
    rebuild = torch._utils._rebuild_tensor_v2
    return Call(rebuild, stored, offset, size, stride, False, OrderedDict())


def pickled(value) -> bytes:
    out = io.BytesIO()
    _Pickler(out, protocol=2).dump(value)
    return out.getvalue()


def archive(records: dict[str, bytes], compress=False) -> bytes:
    out = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", kind) as file:
        for name, data in records.items():
            file.writestr(name, data)
    return out.getvalue()


def records(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist()}


def checkpoint(value, stored=bytes(16), compress=False) -> bytes:
    """value: any object, or the bytes of a pickle."""
    stream = value if isinstance(value, bytes) else pickled(value)
    return archive(
        {
            "x/data.pkl": stream,
            "x/byteorder": b"little",
            "x/data/0": stored,
            "x/version": b"3\n",
        },
        compress,
    )


def with_config(value):
    """The object as the `config` of a checkpoint that has a tensor as well."""
    return {"state_dict": {"w": tensor()}, "hyper_parameters": {"config": value}}
