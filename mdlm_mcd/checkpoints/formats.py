"""Read one file of weights: a PyTorch checkpoint or safetensors, of any host."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import torch
import torch.nn as nn
from safetensors import safe_open
from torch import Tensor

from ..errors import CheckpointError, cause, shown
from . import sanitize, unpickling
from .sanitize import section

log = logging.getLogger(__name__)


class Weights(NamedTuple):
    """One backbone's tensors and what their source says about them.

    state_dict: names as in the backbone, without a prefix. shadow_params: an EMA's
    list in the order of the backbone's parameters. is_final: the source has one set of
    weights by its nature (safetensors, bare tensors). config: plain containers;
    mdlm_mcd: what this package noted of the distillation.
    """

    state_dict: dict[str, Tensor]
    shadow_params: list[Tensor] | None = None
    global_step: int | None = None
    is_final: bool = False
    config: Mapping[str, Any] = {}
    mdlm_mcd: Mapping[str, Any] = {}


def read_file(path: str, source: str) -> Weights:
    """Read the weights in the file `path`, which messages call `source`.

    Raises CheckpointError when it cannot be read or has no weights.
    """
    kind, read = "a PyTorch checkpoint", _pickled
    if path.endswith(".safetensors"):
        kind, read = "safetensors", _safetensors
    try:
        content = read(path)
        noted = {name: content.get(name) for name in ("global_step", "mdlm_mcd")}
        noted["config"] = section(content, "hyper_parameters").get("config")
        noted = sanitize.copy(noted)
        bare = "state_dict" not in content
        named = content if bare else section(content, "state_dict")
        found = {name: _tensor(value) for name, value in named.items()}
        shadow = section(content, "ema").get("shadow_params")
        shadow = [_tensor(v) for v in shadow] if isinstance(shadow, (list, tuple)) else [None]
    except Exception as error:  # a damaged file fails in many ways
        raise CheckpointError(
            f"{source} cannot be read as {kind} ({cause(error)}): it may be truncated; use "
            "another copy."
        ) from error
    tensors = {k: v for k, v in found.items() if isinstance(k, str) and v is not None}
    if not tensors:
        raise CheckpointError(
            f"{source} holds no `state_dict` with tensors: it must be a checkpoint that "
            "Lightning wrote while one of the hosts trained, or a file of tensors by name."
        )
    step = noted["global_step"]
    return Weights(
        _backbone(tensors, found.keys() - tensors.keys() - noted.keys(), path, source),
        None if any(average is None for average in shadow) else shadow,
        step if type(step) is int else None,
        is_final=bare,
        config=section(noted, "config"),
        mdlm_mcd=section(noted, "mdlm_mcd"),
    )


def _pickled(path: str) -> dict[Any, Any]:
    content, left_out = unpickling.load(path)
    if left_out:
        log.info("Skipped in %s what is not weights: %s.", path, first(left_out, 20))
    return content if isinstance(content, dict) else {}


def _safetensors(path: str) -> dict[Any, Any]:
    """Return tensors by name, and what `mdlm-mcd export` noted beside them."""
    with safe_open(path, framework="pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}
        metadata = file.metadata() or {}
    for name in metadata.keys() & {"global_step", "mdlm_mcd"}:
        with suppress(ValueError):  # another program's
            found[name] = sanitize.loads(metadata[name])
    return found


def _tensor(value: Any) -> Tensor | None:
    """Return an ordinary tensor of numbers that the file has; else None."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        return None
    # A view may repeat one stored number without end.
    own = value.device.type == "cpu" and value.nbytes <= value.untyped_storage().nbytes()
    return value.detach() if own else None


# What torch.compile, DDP, FSDP and activation checkpointing put before a part's name.
WRAPPERS = re.compile(
    r"(?<![^.])(_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)


def unwrapped(named: Mapping[str, Any], source: str, own: Iterable[str] = ()) -> dict[str, Any]:
    """Return entries by their names without the `WRAPPERS` of the saved model.

    own: names of the model that they are for, which may itself have such parts. Raises
    CheckpointError where two entries would have one name.
    """
    own = list(own)
    names = {WRAPPERS.sub("", name): name for name in own} | {name: name for name in own}
    found: dict[str, Any] = {}
    for name, value in named.items():
        bare = WRAPPERS.sub("", name)
        name = names.get(name, names.get(bare, bare))
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
    named = section(checkpoint, "state_dict")
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
        if inside := {k.removeprefix("backbone."): k for k in own if k.startswith("backbone.")}:
            skipped |= own.keys() - inside.values()
            own = {name: own[k] for name, k in inside.items()}
    if skipped:
        log.info("Skipped in %s what is not the backbone: %s.", path, first(skipped))
    return own


def first(names: Iterable[str], most: int = 3) -> str:
    """Return the first few names in order, as text for a message, and how many more."""
    names = [shown(name) for name in sorted(names)]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
