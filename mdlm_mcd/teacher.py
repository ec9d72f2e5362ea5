"""The teacher: a frozen snapshot of the student, and weights read from files.

Checkpoints of the public hosts pickle their Hydra config and their tokenizer.
They are read here by an unpickler that builds tensors and plain containers and
leaves an inert placeholder for everything else, so that opening one needs none
of its classes and runs none of its code.
"""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from .errors import CheckpointError


class Teacher:
    """theta^- of Algorithm 1: the student as it was when the round began.

    Not an `nn.Module`, so that a module may hold one as an attribute without its
    optimizer, DDP or `state_dict` seeing it.
    """

    def __init__(self):
        self.backbone: nn.Module | None = None
        self.round: int | None = None

    @torch.no_grad()
    def snapshot(self, student: nn.Module, round_index: int) -> None:
        """stopgrad(theta): copy the student's weights, in eval mode (no dropout)."""
        if self.backbone is None:
            self.backbone = copy.deepcopy(student)
            self.backbone.requires_grad_(False)
        else:
            self.backbone.load_state_dict(student.state_dict())
        self.backbone.eval()
        self.round = round_index

    def to(self, device: torch.device) -> None:
        if self.backbone is not None:
            self.backbone.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and a number only: opens with `torch.load(weights_only=True)`."""
        weights = {k: v.detach().clone() for k, v in self.backbone.state_dict().items()}
        return {"round": self.round, "backbone": weights}

    def load_state_dict(self, state: dict[str, Any], like: nn.Module) -> None:
        """Restore a teacher of the same architecture as `like`."""
        self.snapshot(like, state["round"])
        load_strictly(self.backbone, state["backbone"], "the checkpoint's teacher")


# Reading files of weights ---------------------------------------------------------

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
    """Takes the place of an object of a type that is not on the list."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

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


def _numpy_scalar(dtype, data: bytes):
    return np.frombuffer(data, dtype=dtype)[0]


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
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _bytes,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if module == "__builtin__":  # as written for Python 2, by `torch.save` too
            module = "builtins"
        if (module, name) in _TYPES:
            return super().find_class(module, name)
        if (module, name) in _STAND_FOR:
            return _STAND_FOR[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        # A class of its own each time: `BUILD` on it must not touch shared state.
        return type(name, (_Inert,), {})


class SafePickle:
    """What `torch.load(pickle_module=...)` needs of a pickle module."""

    Unpickler = _Unpickler
    UnpicklingError = pickle.UnpicklingError
    __name__ = "mdlm_mcd.teacher"

    @staticmethod
    def load(file, **kwargs):
        return _Unpickler(file, **kwargs).load()


class Weights(NamedTuple):
    """What a Lightning checkpoint of a host holds: named weights and the EMA's."""

    state_dict: dict[str, Tensor]
    shadow_params: list[Tensor] | None
    global_step: int | None


def read_weights(path: str, key: str = "algo.teacher_path") -> Weights:
    """Read a Lightning checkpoint of any host, running none of its code.

    key: the setting that named the file, for messages. Raises CheckpointError when
    the file is missing, unreadable, or holds no weights.
    """
    if not os.path.isfile(path):
        raise CheckpointError(
            f"{key}={path} is no file: name a checkpoint of the teacher."
        )
    try:
        held = torch.load(
            path, map_location="cpu", pickle_module=SafePickle, weights_only=False
        )
    except Exception as error:
        raise CheckpointError(
            f"{key}={path} cannot be read as a PyTorch checkpoint "
            f"({type(error).__name__}: {error}): it may be truncated; use another copy."
        ) from error
    weights = held.get("state_dict") if isinstance(held, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(
            f"{key}={path} holds no `state_dict`: it must be a checkpoint that "
            "Lightning wrote while one of the hosts trained."
        )
    average = held.get("ema")
    shadow = average.get("shadow_params") if isinstance(average, dict) else None
    step = held.get("global_step")
    return Weights(weights, shadow, step if isinstance(step, int) else None)


def _first(names: Iterable[str], most: int = 3) -> str:
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def load_strictly(module: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """`load_state_dict` where every key and every shape must fit.

    Raises CheckpointError naming the first keys that do not.
    """
    own = module.state_dict()
    said = []
    if missing := own.keys() - weights.keys():
        said.append(f"it lacks {_first(missing)}")
    if surplus := weights.keys() - own.keys():
        said.append(f"it has no place for {_first(surplus)}")
    shapes = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if shapes:
        said.append(f"shapes differ: {_first(shapes)}")
    if said:
        raise CheckpointError(
            f"{source} does not fit this model: {'; '.join(said)}. Train with the "
            "teacher's own `model`, `data` (vocabulary) and `algo` settings."
        )
    module.load_state_dict(weights)


@torch.no_grad()
def load_average(
    parameters: Iterable[tuple[str, nn.Parameter]], shadow: list[Tensor], source: str
) -> None:
    """Copy an EMA's `shadow_params`, which carry no names, into named parameters.

    Raises CheckpointError when their number or a shape does not fit.
    """
    parameters = list(parameters)
    if len(parameters) != len(shadow):
        raise CheckpointError(
            f"{source} holds an EMA of {len(shadow)} tensors for a model of "
            f"{len(parameters)}: take its raw weights with algo.init_from=raw."
        )
    for (name, parameter), average in zip(parameters, shadow, strict=True):
        if parameter.shape != average.shape:
            raise CheckpointError(
                f"{source} holds an EMA whose tensor for {name} is "
                f"{tuple(average.shape)} instead of {tuple(parameter.shape)}: take its "
                "raw weights with algo.init_from=raw."
            )
        parameter.copy_(average)
