"""One file of weights: a PyTorch checkpoint or safetensors, of any host."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from . import pickles, plain
from .errors import CheckpointError
from .plain import shown

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
        held, foreign = pickles.load(path)
        held = held if isinstance(held, dict) else {}
        hyper = held.get("hyper_parameters")
        config = hyper.get("config") if isinstance(hyper, dict) else None
        config, noted = pickles.plain(config), pickles.plain(held.get("mdlm_mcd"))
    except Exception as error:  # a spoilt file fails in many ways
        raise CheckpointError(
            f"{source} cannot be read as a PyTorch checkpoint ({told(error)}): it may "
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
    if not isinstance(shadow, (list, tuple, type(None))) or not all(
        map(_is_tensor, shadow or ())
    ):
        raise CheckpointError(
            f"{source} holds an EMA that is no list of tensors: use another copy."
        )
    return Weights(
        _backbone(named, path),
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
        noted = plain.loads(said.get("mdlm_mcd", "{}"))
    except ValueError:
        noted = {}
    step = said.get("global_step", "")
    return Weights(
        _backbone(tensors, path),
        global_step=int(step) if re.fullmatch("[0-9]{1,18}", step) else None,
        is_final=True,
        mdlm_mcd=noted if isinstance(noted, dict) else {},
    )


def _backbone(named: dict[str, Any], path: str) -> dict[str, Tensor]:
    """The backbone's entries under its own names; the log says what else there was.

    `backbone.` may stand twice (SDTT from a Hugging Face model) or not at all, and
    `torch.compile` leaves `_orig_mod.`.
    """
    own = {k.replace("_orig_mod.", ""): v for k, v in named.items() if _is_named(k, v)}
    skipped = {str(k) for k, v in named.items() if not _is_named(k, v)}
    for _ in range(2):
        if not any(k.startswith("backbone.") for k in own):
            break
        skipped |= {k for k in own if not k.startswith("backbone.")}
        own = {
            k.removeprefix("backbone."): v
            for k, v in own.items()
            if k.startswith("backbone.")
        }
    if skipped:
        log.info("Skipped in %s what is not the backbone: %s.", path, first(skipped))
    return own


def told(error: Exception) -> str:
    """What went wrong, in one line; a file may have had a say in its words."""
    return f"{type(error).__name__}: {shown(error, 200)}"


def first(names: Iterable[str], most: int = 3) -> str:
    """The first few names in order, as text for a message, and how many more."""
    names = [shown(name) for name in sorted(names)]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
