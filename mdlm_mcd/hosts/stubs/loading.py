"""Checkpoints that torch refuses because they hold more than tensors."""

from __future__ import annotations

import functools
import logging
import os
import pickle
import zipfile

import torch

from ...checkpoints import unpickling, zip_checks

log = logging.getLogger(__name__)

_FORCED = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")


def tolerant(load):
    """`torch.load` that reads what it refuses, without the classes it refuses it for.

    Tried first as asked. Only a file refused under the default of `weights_only` is
    read again, by the unpickler of `mdlm_mcd.checkpoints.unpickling`: tensors and plain containers,
    an inert placeholder for all else, no code of the file. Who asks for
    `weights_only` or a `pickle_module` of their own gets what they ask for. Raises
    what `load` raises; its refusal, when the second reading fails too.
    """
    said = []

    @functools.wraps(load)
    def wrapper(f, map_location=None, pickle_module=None, **kwargs):
        asked = kwargs.get("weights_only") is not None or pickle_module is not None
        if asked or any(os.environ.get(name) for name in _FORCED):
            return load(f, map_location, pickle_module, **kwargs)
        start = f.tell() if hasattr(f, "seek") else None
        try:
            return load(f, map_location, **kwargs)
        except pickle.UnpicklingError as refused:
            kwargs["weights_only"] = False
            try:
                sizes = _sizes(f, start)
                reader = unpickling.reader(set(), sizes)
                held = load(f, map_location, reader, **kwargs)
            except Exception:
                raise refused from None
        if not said:
            said.append(True)
            log.info(
                "%s holds objects beside tensors (a config, a tokenizer): they were "
                "left out, and none of their code was run. So for all such files.",
                getattr(f, "name", f),
            )
        return held

    return wrapper


def _sizes(f, start) -> dict[str, int]:
    """Of the stored tensors, which the unpickler holds the pickle to; rewinds `f`."""
    if start is not None:
        f.seek(start)
    zip_checks.check(f)
    with zipfile.ZipFile(f) as archive:
        sizes = zip_checks.records(archive).sizes
    if start is not None:
        f.seek(start)
    return sizes


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
