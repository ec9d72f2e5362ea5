"""Let the hosts' `torch.load` open checkpoints that torch refuses."""

from __future__ import annotations

import functools
import logging
import os
import pickle

import torch

from ...checkpoints import unpickling

log = logging.getLogger(__name__)

_FORCED = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")


def tolerant(load):
    """Return a `torch.load` that opens what `load` refuses, without the refused classes.

    Only a file that is refused under the default of `weights_only` is read again, with
    inert stand-ins for the classes that torch does not know. A caller who gives
    `weights_only` or a `pickle_module` gets what they ask for. Raises what `load`
    raises; its first refusal, when the second reading fails too.
    """
    logged = False

    @functools.wraps(load)
    def wrapper(f, map_location=None, pickle_module=None, **kwargs):
        nonlocal logged
        asked = kwargs.get("weights_only") is not None or pickle_module is not None
        if asked or any(os.environ.get(name) for name in _FORCED):
            return load(f, map_location, pickle_module, **kwargs)
        start = f.tell() if hasattr(f, "seek") else None
        try:
            return load(f, map_location, **kwargs)
        except pickle.UnpicklingError as refused:
            try:
                if start is not None:
                    f.seek(start)
                with unpickling.stand_ins(f):
                    if start is not None:
                        f.seek(start)
                    loaded = load(f, map_location, **{**kwargs, "weights_only": True})
            except Exception:
                raise refused from None
        if not logged:
            logged = True
            log.info(
                "%s holds objects beside tensors (a config, a tokenizer): they were "
                "left out, and none of their code was run. So for all such files.",
                getattr(f, "name", f),
            )
        return loaded

    return wrapper


def supply() -> list[str]:
    """Wrap `torch.load` where it refuses the hosts' checkpoints (torch 2.6 on)."""
    major, minor = torch.__version__.split(".")[:2]
    if (int(major), int(minor)) < (2, 6):
        return []
    torch.load = tolerant(torch.load)
    return [
        "torch.load refuses the hosts' checkpoints by default: their tensors and plain "
        "values are read without running code of theirs."
    ]
