"""One file of weights: a PyTorch checkpoint or safetensors, of any host."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch.nn as nn
from torch import Tensor

from ..errors import CheckpointError, cause, shown
from . import sanitize, unpickling

log = logging.getLogger(__name__)


class Weights(NamedTuple):
    """One backbone's tensors and what their source says about them.

    state_dict: names as in the backbone, without a prefix. shadow_params: an EMA's
    list in the order of the backbone's parameters; None where a source keeps none.
    is_final: the source holds one set of weights by its nature (safetensors, bare
    tensors), so `ema` asks no more of it. config: plain containers, empty when
    there are none; mdlm_mcd: what this package noted of the distillation.
    """

    state_dict: dict[str, Tensor]
    shadow_params: list[Tensor] | None = None
    global_step: int | None = None
    is_final: bool = False
    config: Mapping[str, Any] = {}
    mdlm_mcd: Mapping[str, Any] = {}


def read_file(path: str, source: str) -> Weights:
    """The weights in the file `path`, which messages call `source`.

    Raises CheckpointError when it cannot be read or holds no weights.
    """
    if path.endswith(".safetensors"):
        return _read_safetensors(path, source)
    return _read_checkpoint(path, source)


def _read_checkpoint(path: str, source: str) -> Weights:
    try:
        held, foreign = unpickling.load(path)
        held = held if isinstance(held, dict) else {}
        hyper = held.get("hyper_parameters")
        config = hyper.get("config") if isinstance(hyper, dict) else None
        config, noted = unpickling.plain(config), unpickling.plain(held.get("mdlm_mcd"))
    except Exception as error:  # a spoilt file fails in many ways
        raise CheckpointError(
            f"{source} cannot be read as a PyTorch checkpoint ({cause(error)}): it may "
            "be truncated; use another copy."
        ) from error
    if foreign:
        log.info("Skipped in %s what is not weights: %s.", path, first(foreign, 20))
    bare = "state_dict" not in held
    named = held if bare else held["state_dict"]
    if not isinstance(named, dict) or not any(_is_named(*kv) for kv in named.items()):
        kind = getattr(named, "kind", type(named).__name__)  # a placeholder's own
        raise CheckpointError(
            f"{source} holds no `state_dict` (a {shown(kind)} without tensors): it "
            "must be a checkpoint that Lightning wrote while one of the hosts trained, "
            "or a file of tensors by name."
        )
    _check_shared(list(filter(_is_tensor, named.values())), source)
    average, step = held.get("ema"), held.get("global_step")
    shadow = average.get("shadow_params") if isinstance(average, dict) else None
    if not isinstance(shadow, (list, tuple, type(None))) or not all(map(_is_tensor, shadow or ())):
        raise CheckpointError(
            f"{source} holds an EMA that is no list of tensors: use another copy."
        )
    return Weights(
        _backbone(named, path, source),
        shadow,
        step if type(step) is int and 0 <= step < 2**63 else None,
        is_final=bare,
        config=config if isinstance(config, dict) else {},
        mdlm_mcd=noted if isinstance(noted, dict) else {},
    )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _is_named(name: Any, value: Any) -> bool:
    return isinstance(name, str) and _is_tensor(value)


def _check_shared(tensors: list[Tensor], source: str) -> None:
    """Refuse few stored numbers that stand for many: loading would multiply them."""
    stored = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors}
    held = sum(storage.nbytes() for storage in stored.values())
    asked = sum(t.numel() * t.element_size() for t in tensors)
    if asked > 4 * held:  # tied weights stand twice
        raise CheckpointError(
            f"{source} makes {asked} bytes of weights out of {held} stored ones: use "
            "a copy from a source you trust."
        )


def _read_safetensors(path: str, source: str) -> Weights:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            said = file.metadata() or {}
    except Exception as error:  # SafetensorError, and torch's for a type it lacks
        raise CheckpointError(
            f"{source} cannot be read as safetensors ({shown(error, 200)}): it may be "
            "truncated; use another copy."
        ) from error
    if not tensors:
        raise CheckpointError(f"{source} holds no tensors: use another file.")
    try:
        noted = sanitize.loads(said.get("mdlm_mcd", "{}"))
    except ValueError:
        noted = {}
    step = said.get("global_step", "")
    return Weights(
        _backbone(tensors, path, source),
        global_step=int(step) if re.fullmatch("[0-9]{1,18}", step) else None,
        is_final=True,
        mdlm_mcd=noted if isinstance(noted, dict) else {},
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
    held = checkpoint.get("state_dict")
    if isinstance(held, dict):
        found = unwrapped(held, "The checkpoint", module.state_dict())
        if found.keys() != held.keys():
            checkpoint["state_dict"] = found


def _backbone(named: dict[str, Any], path: str, source: str) -> dict[str, Tensor]:
    """The backbone's entries under its own names; the log says what else there was.

    `backbone.` may stand twice (SDTT from a Hugging Face model) or not at all.
    """
    own = unwrapped({k: v for k, v in named.items() if _is_named(k, v)}, source)
    skipped = {str(k) for k, v in named.items() if not _is_named(k, v)}
    for _ in range(2):
        if not any(k.startswith("backbone.") for k in own):
            break
        skipped |= {k for k in own if not k.startswith("backbone.")}
        own = {k.removeprefix("backbone."): v for k, v in own.items() if k.startswith("backbone.")}
    if skipped:
        log.info("Skipped in %s what is not the backbone: %s.", path, first(skipped))
    return own


def first(names: Iterable[str], most: int = 3) -> str:
    """The first few names in order, as text for a message, and how many more."""
    names = [shown(name) for name in sorted(names)]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
