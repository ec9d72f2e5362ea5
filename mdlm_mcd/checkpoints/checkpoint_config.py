"""Read the config inside a checkpoint, as far as it may decide anything.

A checkpoint may come from anybody. Its config names no code to run, no folder to write
to and no variable of the environment, and a size counts only where the tensors beside
it are as large.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ..errors import CheckpointError, border, shown
from ..models import dit
from .weights import MOST

CACHE = "~/.cache/mdlm_mcd"

_DATA = {
    "train": str,
    "valid": str,
    "text_key": str,
    "tokenizer_name_or_path": str,
    "separator": str,
    "files": (str, list),
    "valid_files": (str, list),
    "vocab_size": int,
    "max_chars": int,
    "packages": list,
    "wrap": bool,
    "insert_train_eos": bool,
    "insert_valid_eos": bool,
}


def literal(value: Any) -> DictConfig:
    """Return a config of plain containers, in which `${...}` is text and no resolver."""

    def escaped(value):
        if isinstance(value, dict):
            return {escaped(k): escaped(v) for k, v in value.items()}
        if isinstance(value, list):
            return [escaped(v) for v in value]
        return value.replace("${", "\\${") if isinstance(value, str) else value

    return OmegaConf.create(escaped(value))


def section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a section of a config; an empty one where there is none."""
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def data(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the usable part of a config's `data` section, with a cache of the user's own."""
    found = {
        key: value
        for key, value in section(config, "data").items()
        if key in _DATA
        and isinstance(value, _DATA[key])
        and not (_DATA[key] is int and not 0 < value <= MOST)
    }
    return found | {"cache_dir": cache_of(section(config, "data").get("cache_dir"))}


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


def check_sizes(sizes: Mapping[str, Any], source: str) -> None:
    """Raise CheckpointError for sizes of which no DiT can be made."""
    names = ("vocab_size", "hidden_dim", "cond_dim", "n_blocks", "n_heads", "model_length")
    found = {name: sizes[name] for name in names}
    fine = all(type(size) is int and 0 < size <= MOST for size in found.values())
    if not fine or found["hidden_dim"] % (2 * found["n_heads"]):
        named = ", ".join(f"{name}={shown(size)}" for name, size in found.items())
        raise CheckpointError(
            f"{source} has sizes of which no model can be made ({named}): use another copy, or "
            "give --heads N."
        )


def check_room(
    model: Mapping[str, Any],
    vocab_size: int,
    causal: bool,
    tensors: Mapping[str, Tensor],
    source: str,
) -> None:
    """Raise CheckpointError where a model would be larger than the file's tensors.

    model: the host's `model` section. One block is made, on the meta device, so that
    nothing is allocated.
    """
    with torch.device("meta"):
        small = dit.DIT(
            {"model": {**model, "n_blocks": 1}, "algo": {"causal_attention": causal}}, vocab_size
        )
    block = sum(p.numel() for p in small.blocks.parameters())
    asked = sum(p.numel() for p in small.parameters())
    asked += (model["n_blocks"] - 1) * block
    found = sum(t.numel() for t in tensors.values())
    if asked > found:
        raise CheckpointError(
            f"{source} describes a model of {asked} parameters and holds {found}: it is "
            "no whole model of that kind; use another copy."
        )
