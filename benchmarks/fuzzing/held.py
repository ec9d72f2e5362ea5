"""A run's checkpoint made wrong by hand and by chance, in what ours reads of it."""

from __future__ import annotations

import io
import random
from collections.abc import Callable

import torch

from . import mutations

# What Lightning keeps beside these (loops, optimizers, schedulers, callbacks) is its
# own to read, and left as it was.
READ = ("state_dict", "ema", "mdlm_mcd", "global_step", "hyper_parameters")


def saved(value) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    # The archive's folder has the name of the file, and here there is none.
    return out.getvalue()


def opened(data: bytes):
    return torch.load(io.BytesIO(data), weights_only=True)


def _put(value, *keys):
    """A change that sets what lies under these keys; without a value, drops it."""

    def change(held):
        for key in keys[:-1]:
            held = held[key]
        if value is _put:
            del held[keys[-1]]
        else:
            held[keys[-1]] = value

    return change


def _drop(*keys):
    return _put(_put, *keys)


def _first(section: Callable[[dict], dict], change: Callable | None = None):
    """A change of the first tensor of a section; without one it is dropped."""

    def apply(held):
        tensors = section(held)
        name = next(iter(tensors))
        if change is None:
            del tensors[name]
        else:
            tensors[name] = change(tensors[name])

    return apply


def _weights(held):
    return held["state_dict"]


def _teacher(held):
    return held["mdlm_mcd"]["teacher"]["backbone"]


def _narrow(x):
    return x[..., :1].clone()


MODEL = {
    "ema is text": _put("0.9", "ema"),
    "ema is null": _put(None, "ema"),
    "ema is a list": _put([], "ema"),
    "no ema": _drop("ema"),
    "ema without weights": _drop("ema", "shadow_params"),
    "ema without decay": _drop("ema", "decay"),
    "ema without count": _drop("ema", "num_updates"),
    "ema's decay is text": _put("0.9", "ema", "decay"),
    "ema's decay is 7": _put(7, "ema", "decay"),
    "ema's count is text": _put("5", "ema", "num_updates"),
    "ema's weights are null": _put(None, "ema", "shadow_params"),
    "ema's weights are text": _put("weights", "ema", "shadow_params"),
    "ema's weights are numbers": _put([1.0, 2.0], "ema", "shadow_params"),
    "an ema of no weights": _put([], "ema", "shadow_params"),
    "ema of another shape": lambda held: held["ema"].update(
        shadow_params=[_narrow(p) for p in held["ema"]["shadow_params"]]
    ),
    "ema of one weight less": lambda held: held["ema"]["shadow_params"].pop(),
    "no state_dict": _drop("state_dict"),
    "state_dict is text": _put("weights", "state_dict"),
    "state_dict is null": _put(None, "state_dict"),
    "state_dict is a list": _put([], "state_dict"),
    "an empty state_dict": _put({}, "state_dict"),
    "state_dict lacks a weight": _first(_weights),
    "state_dict has one more": _put(torch.ones(2), "state_dict", "more"),
    "a weight is text": _first(_weights, str),
    "a weight is null": _first(_weights, lambda x: None),
    "a weight of another shape": _first(_weights, _narrow),
    "a weight is not a number": _first(_weights, lambda x: x * torch.nan),
    "a name of a weight is a number": _put(torch.ones(2), "state_dict", 7),
    "no hyper_parameters": _drop("hyper_parameters"),
    "hyper_parameters are text": _put("config", "hyper_parameters"),
    "no config": _drop("hyper_parameters", "config"),
}
RUN = {
    "no entry of ours": _drop("mdlm_mcd"),
    "ours is null": _put(None, "mdlm_mcd"),
    "ours is text": _put("mcd", "mdlm_mcd"),
    "ours is a list": _put([1], "mdlm_mcd"),
    "ours is empty": _put({}, "mdlm_mcd"),
    "no split": _drop("mdlm_mcd", "split"),
    "split is text": _put("8", "mdlm_mcd", "split"),
    "split is a list": _put([1, 8, 1], "mdlm_mcd", "split"),
    "split is empty": _put({}, "mdlm_mcd", "split"),
    "split lacks micro_batches": _drop("mdlm_mcd", "split", "micro_batches"),
    "split of text": _put("1", "mdlm_mcd", "split", "rows"),
    "split into no micro-batches": _put(
        {"processes": 1, "rows": 8, "micro": 1}, "mdlm_mcd", "split"
    ),
    "split otherwise": _put({"processes": 1, "rows": 4, "micro_batches": 2}, "mdlm_mcd", "split"),
    "guard is text": _put("0.3", "mdlm_mcd", "guard"),
    "guard is a list": _put([1.0, 2], "mdlm_mcd", "guard"),
    "guard is not a number": _put(float("nan"), "mdlm_mcd", "guard"),
    "guard is null": _put(None, "mdlm_mcd", "guard"),
    "no guard": _drop("mdlm_mcd", "guard"),
    "round is text": _put("1", "mdlm_mcd", "round"),
    "no teacher": _drop("mdlm_mcd", "teacher"),
    "teacher is null": _put(None, "mdlm_mcd", "teacher"),
    "teacher is text": _put("a/b.ckpt", "mdlm_mcd", "teacher"),
    "teacher is a list": _put([0], "mdlm_mcd", "teacher"),
    "teacher is empty": _put({}, "mdlm_mcd", "teacher"),
    "teacher's round is text": _put("0", "mdlm_mcd", "teacher", "round"),
    "teacher's round is null": _put(None, "mdlm_mcd", "teacher", "round"),
    "teacher's round is another": _put(0, "mdlm_mcd", "teacher", "round"),
    "teacher has no round": _drop("mdlm_mcd", "teacher", "round"),
    "teacher has no weights": _drop("mdlm_mcd", "teacher", "backbone"),
    "teacher's weights are text": _put("x", "mdlm_mcd", "teacher", "backbone"),
    "teacher's weights are a list": _put([1.0], "mdlm_mcd", "teacher", "backbone"),
    "teacher lacks a weight": _first(_teacher),
    "teacher's weight is text": _first(_teacher, str),
    "teacher's weight of another shape": _first(_teacher, _narrow),
    "teacher's weight is not a number": _first(_teacher, lambda x: x * torch.nan),
    "no global_step": _drop("global_step"),
    "global_step is text": _put("2", "global_step"),
    "global_step is null": _put(None, "global_step"),
    "global_step is a fraction": _put(2.5, "global_step"),
    "global_step is not a number": _put(float("nan"), "global_step"),
    "global_step is below zero": _put(-1, "global_step"),
    "global_step is past the end": _put(10**9, "global_step"),
    "global_step is a list": _put([2], "global_step"),
    "global_step is a tensor": _put(torch.tensor(2), "global_step"),
}


def wrong(good: bytes, changes: dict[str, Callable]) -> dict[str, bytes]:
    """The good checkpoint after each of the changes, by its name."""
    found = {}
    for name, change in changes.items():
        held = opened(good)
        change(held)
        found[name] = saved(held)
    return found


def mutate(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Entries that ours reads, as trees with tensors in them; or the bytes."""
    try:
        held = opened(data)
        names = [name for name in READ if name in held]
        if not names or rng.random() < 0.1:
            raise ValueError
    except Exception:  # what was mutated before may be no archive
        return mutations.of_bytes(rng, data, others)
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(names)
        if rng.random() < 0.05:
            held.pop(name, None)
        elif name in held:
            held[name] = mutations.of_json(rng, held[name], _tensor)
    return saved(held)


def _tensor(rng: random.Random, value):
    """Another leaf in place of a tensor; None where the value is none."""
    if not isinstance(value, torch.Tensor) or rng.random() < 0.2:
        return None
    x = value.detach()
    return rng.choice(
        (
            lambda: x[:0].clone() if x.dim() else x,
            lambda: x[None],
            lambda: x.flatten(),
            lambda: x.double(),
            lambda: x.half(),
            lambda: x.long(),
            lambda: x > 0,
            lambda: x.to(torch.complex64),
            lambda: x * torch.nan,
            lambda: x + torch.inf,
            lambda: torch.zeros(0),
            lambda: torch.tensor(1.0),
            lambda: x.to_sparse(),
            lambda: x.t() if x.dim() == 2 else x.expand(2, *x.shape),
        )
    )()
