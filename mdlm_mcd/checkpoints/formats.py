"""Read one file of weights: a PyTorch checkpoint or safetensors, of any host."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from ..errors import CheckpointError, shown
from . import sanitize, unpickling

log = logging.getLogger(__name__)


class Weights(NamedTuple):
    """One backbone's tensors and what their source says about them.

    state_dict: names as in the backbone, without a prefix. shadow_params: an EMA's
    list in the order of the backbone's parameters; None where a source has none.
    is_final: the source has one set of weights by its nature (safetensors, bare
    tensors), so `ema` asks no more of it. config: plain containers, empty when
    there are none; mdlm_mcd: what this package noted of the distillation.
    """

    state_dict: dict[str, Tensor]
    shadow_params: list[Tensor] | None = None
    global_step: int | None = None
    is_final: bool = False
    config: Mapping[str, Any] = {}
    mdlm_mcd: Mapping[str, Any] = {}


def entries(value: Any) -> dict[Any, Any]:
    """Return a copy of a dict, without the attributes a file gave it; else an empty one."""
    return dict(dict.items(value)) if isinstance(value, dict) else {}


def read_file(path: str, source: str) -> Weights:
    """Read the weights in the file `path`, which messages call `source`.

    Raises CheckpointError when it cannot be read or has no weights.
    """
    if path.endswith(".safetensors"):
        return _read_safetensors(path, source)
    return _read_checkpoint(path, source)


def _read_checkpoint(path: str, source: str) -> Weights:
    try:
        content, left_out = unpickling.load(path)
        content = entries(content)
        config = unpickling.plain(entries(content.get("hyper_parameters")).get("config"))
        notes = unpickling.plain(content.get("mdlm_mcd"))
    except Exception as error:  # a damaged file fails in many ways
        raise CheckpointError(
            f"{source} cannot be read as a PyTorch checkpoint ({unpickling.reason(error)}): it may "
            "be truncated; use another copy."
        ) from error
    if left_out:
        log.info("Skipped in %s what is not weights: %s.", path, first(left_out, 20))
    bare = "state_dict" not in content
    named = content if bare else entries(content["state_dict"])
    tensors = {
        k: t for k, v in named.items() if isinstance(k, str) and (t := _tensor(v)) is not None
    }
    if not tensors:
        raise CheckpointError(
            f"{source} holds no `state_dict` with tensors: it "
            "must be a checkpoint that Lightning wrote while one of the hosts trained, "
            "or a file of tensors by name."
        )
    shadow = entries(content.get("ema")).get("shadow_params")
    if shadow is not None:
        shadow = [_tensor(v) for v in shadow] if isinstance(shadow, (list, tuple)) else [None]
        if any(tensor is None for tensor in shadow):
            raise CheckpointError(
                f"{source} holds an EMA that is no list of tensors: use another copy."
            )
    # A view may repeat one stored number without end; tied weights stand twice.
    asked = sum(t.numel() * t.element_size() for t in [*tensors.values(), *(shadow or ())])
    stored = os.path.getsize(path)
    if asked > 4 * stored:
        raise CheckpointError(
            f"{source} makes {asked} bytes of weights out of {stored} stored ones: use "
            "a copy from a source you trust."
        )
    step = content.get("global_step")
    return Weights(
        _backbone(tensors, named.keys() - tensors.keys(), path, source),
        shadow,
        step if type(step) is int and 0 <= step < 2**63 else None,
        is_final=bare,
        config=config if isinstance(config, dict) else {},
        mdlm_mcd=notes if isinstance(notes, dict) else {},
    )


def _tensor(value: Any) -> Tensor | None:
    """Return an ordinary tensor without the attributes a file gave it; else None."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        return None
    return Tensor.detach(value) if value.device.type == "cpu" else None


def _read_safetensors(path: str, source: str) -> Weights:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
    except Exception as error:  # SafetensorError, and torch's for a type it lacks
        raise CheckpointError(
            f"{source} cannot be read as safetensors ({shown(error, 200)}): it may be "
            "truncated; use another copy."
        ) from error
    if not tensors:
        raise CheckpointError(f"{source} holds no tensors: use another file.")
    try:
        notes = sanitize.loads(metadata.get("mdlm_mcd", "{}"))
    except ValueError:
        notes = {}
    step = metadata.get("global_step", "")
    return Weights(
        _backbone(tensors, (), path, source),
        global_step=int(step) if re.fullmatch("[0-9]{1,18}", step) else None,
        is_final=True,
        mdlm_mcd=notes if isinstance(notes, dict) else {},
    )


# What torch.compile, DDP, FSDP and activation checkpointing put before a part's name.
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def unwrapped(named: Mapping[str, Any], source: str, own: Iterable[str] = ()) -> dict[str, Any]:
    """Return entries by their names without the `WRAPPERS` of the saved model.

    own: names of the model that they are for, which may itself have such parts. Raises
    CheckpointError where two entries would have one name.
    """

    def bare(name: str) -> str:
        return ".".join(p for p in name.split(".") if p not in WRAPPERS) or name

    own = set(own)
    names = {bare(name): name for name in own}
    found: dict[str, Any] = {}
    for name, value in named.items():
        if isinstance(name, str) and name not in own:
            name = names.get(bare(name), bare(name))
        if name in found:
            raise CheckpointError(
                f"{source} holds {shown(name)} twice, with and without a prefix of "
                "DDP or torch.compile: use another copy."
            )
        found[name] = value
    return found


def unwrap(checkpoint: dict[str, Any], module: nn.Module) -> None:
    """Apply `unwrapped` to what Lightning is about to load into a module.

    Under FSDP it has done so before, and there is nothing left.
    """
    named = checkpoint.get("state_dict")
    if isinstance(named, dict):
        found = unwrapped(named, "The checkpoint", module.state_dict())
        if found.keys() != named.keys():
            checkpoint["state_dict"] = found


def _backbone(
    tensors: dict[str, Tensor], others: Iterable[Any], path: str, source: str
) -> dict[str, Tensor]:
    """Return the backbone's tensors under its own names; the log names what else there was.

    `backbone.` may stand twice (SDTT from a Hugging Face model) or not at all.
    """
    own = unwrapped(tensors, source)
    skipped = {name if isinstance(name, str) else type(name).__name__ for name in others}
    for _ in range(2):
        if not any(k.startswith("backbone.") for k in own):
            break
        skipped |= {k for k in own if not k.startswith("backbone.")}
        own = {k.removeprefix("backbone."): v for k, v in own.items() if k.startswith("backbone.")}
    if skipped:
        log.info("Skipped in %s what is not the backbone: %s.", path, first(skipped))
    return own


def first(names: Iterable[str], most: int = 3) -> str:
    """Return the first few names in order, as text for a message, and how many more."""
    names = [shown(name) for name in sorted(names)]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
