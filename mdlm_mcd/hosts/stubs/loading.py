"""Let the hosts' `torch.load` open checkpoints that torch refuses."""

from __future__ import annotations

import functools
import pickle
import zipfile

import torch

from ...checkpoints import unpickling


def tolerant(load):
    """Return a `torch.load` that opens what `load` refuses, without the refused classes.

    With inert stand-ins for them. A caller who gives `weights_only` or a `pickle_module`
    gets what they ask for. Raises what `load` raises; its first refusal, when the second
    reading fails too.
    """

    @functools.wraps(load)
    def wrapper(f, map_location=None, pickle_module=None, **kwargs):
        asked = kwargs.get("weights_only") is not None or pickle_module is not None
        start = f.tell() if hasattr(f, "seek") else None
        try:
            return load(f, map_location, pickle_module, **kwargs)
        except pickle.UnpicklingError as refused:
            if asked:
                raise
            rewind = (lambda: None) if start is None else (lambda: f.seek(start))
            try:
                rewind()
                with zipfile.ZipFile(f) as archive:  # torch would unpack a tar archive
                    if any(name.endswith("constants.pkl") for name in archive.namelist()):
                        raise refused  # and run a TorchScript program
                rewind()
                how = {**kwargs, "weights_only": False}
                return load(f, map_location, unpickling.reader(), **how)
            except Exception:
                raise refused from None

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
