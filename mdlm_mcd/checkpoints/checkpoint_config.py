"""Read the config inside a checkpoint, as far as it may decide anything.

A checkpoint may come from anybody. Its config names no code to run, no folder to write
to and no variable of the environment, and a size counts only where the tensors beside
it are as large.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ..errors import CheckpointError, border
from ..models import dit
from .sanitize import section

CACHE = "~/.cache/mdlm_mcd"


def literal(value: Any) -> DictConfig:
    """Return a config of plain containers, in which `${...}` is text and no resolver."""
    return OmegaConf.create(json.loads(json.dumps(value).replace("${", r"\\${")))


def data(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's `data` section, with a cache of the user's own."""
    found = section(config, "data")
    return {**found, "cache_dir": cache_of(found.get("cache_dir"))}


def cache_of(folder: Any) -> str:
    """Return the folder that a checkpoint names if it is a cache already, else CACHE."""
    if isinstance(folder, str) and "\0" not in folder:
        path = Path(os.path.expanduser(folder))
        if any(any(path.glob(f"{kind}-*.json")) for kind in ("bpe", "prose", "stdlib")):
            return folder
    return CACHE


def used(source: str) -> AbstractContextManager[None]:
    """Raise CheckpointError for what a config without sense does to the embedded host.

    This package's own errors pass.
    """
    return border(
        f"{source} holds a config that cannot be used",
        "use another copy, or one that the embedded host or `mdlm-mcd export` wrote",
        CheckpointError,
    )


def check_room(
    model: Mapping[str, Any],
    vocab_size: int,
    causal: bool,
    tensors: Mapping[str, Tensor],
    source: str,
) -> None:
    """Raise CheckpointError where a model cannot be made or is larger than its tensors.

    model: the host's `model` section. One block is made, on the meta device, so that
    nothing is allocated.
    """
    with (
        border(
            f"{source} has sizes of which no model can be made",
            "use another copy, or give --heads N",
            CheckpointError,
        ),
        torch.device("meta"),
    ):
        if model["hidden_size"] % (2 * model["n_heads"]):
            raise ValueError("hidden_size={hidden_size}, n_heads={n_heads}".format_map(model))
        one = {"model": {**model, "n_blocks": 1}, "algo": {"causal_attention": causal}}
        small = dit.DIT(one, vocab_size)
        block, asked = (sum(p.numel() for p in x.parameters()) for x in (small.blocks, small))
        asked += (model["n_blocks"] - 1) * block
    found = sum(t.numel() for t in tensors.values())
    if asked > found:
        raise CheckpointError(
            f"{source} describes a model of {asked} parameters and holds {found}: it is "
            "no whole model of that kind; use another copy."
        )
