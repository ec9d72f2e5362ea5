"""A small network's files in each format, and files around pickles that no `torch.save` writes."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections import OrderedDict

import torch
from safetensors.torch import save

from mdlm_mcd.models import dit

MODEL = {"hidden_size": 16, "cond_dim": 8, "n_blocks": 2, "n_heads": 2, "dropout": 0.0}
INDEX = "model.safetensors.index.json"


def net(**changes):
    config = {"model": {**MODEL, **changes}, "algo": {"causal_attention": False}}
    model = dit.DIT(config, vocab_size=11)
    for p in model.parameters():  # away from the zero start, where all are alike
        torch.nn.init.normal_(p)
    return model


def prefixed(model, prefix="backbone."):
    return {prefix + k: v.clone() for k, v in model.state_dict().items()}


def lightning_like(model, prefix="backbone."):
    """A checkpoint of a host, whose average is the weights + 1."""
    shadow = [p.detach() + 1 for p in model.parameters()]
    ema = {"decay": 0.9, "num_updates": 5, "shadow_params": shadow}
    return {"state_dict": prefixed(model, prefix), "ema": ema, "global_step": 17}


def saved(value) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def folders(tensors) -> dict[str, dict[str, bytes]]:
    """The files, by name, of a Hugging Face folder with those tensors: of each kind."""
    config = {"config.json": b'{"n_heads": 2, "hidden_dim": 16, "model_type": "mdlm"}'}
    names = [f"model-{i}.safetensors" for i in range(2)]
    table = {key: names[i % 2] for i, key in enumerate(tensors)}
    parts = {n: save({k: x for k, x in tensors.items() if table[k] == n}) for n in names}
    index = json.dumps({"metadata": {}, "weight_map": table}).encode()
    return {
        "one": {"model.safetensors": save(tensors), **config},
        "bin": {"pytorch_model.bin": saved(tensors), **config},
        "sharded": {INDEX: index, **parts, **config},
    }


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
