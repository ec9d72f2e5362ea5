"""Read the weights of masked diffusion models, and fill a model with them.

A Lightning checkpoint of MDLM, Duo or SDTT, a file of tensors, a Hugging Face folder or the
name of one on the Hub: all end as the tensors of one backbone under the public parameter
names. No code that comes with a file is run, and none is downloaded.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from ..errors import CheckpointError, border, shown
from . import sanitize
from .files import expanded
from .formats import Weights, read_file
from .sanitize import section

log = logging.getLogger(__name__)

FILES = ("model.safetensors", "pytorch_model.bin")  # or parts that NAME.index.json names
CONFIG = "config.json"

HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w./-]+))?")
_FILE = re.compile(r".*\.(ckpt|pt|pth|bin|safetensors)")
ROTARY = "rotary_emb.inv_freq"
MOST = 1 << 24  # a length, a width or a number of blocks beyond it is a mistake


def read_weights(path: str, key: str = "algo.teacher_path") -> Weights:
    """Read the weights that `path` names: a file, a folder, or `org/name[@revision]`.

    A path that exists goes before the Hub. key: the setting that named it. Raises
    CheckpointError when it is missing, cannot be read, or has no weights.
    """
    source = f"{key}={path}"
    path = expanded(path, key)
    if os.path.isfile(path):
        return read_file(path, source)
    if not os.path.isdir(path):
        check_named(path, source)
        path = _download(path, source)
    names = _weight_files(path, source)
    if not names:
        raise CheckpointError(
            f"{source} is a folder without {' or '.join(FILES)}: name a folder that "
            "`save_pretrained` or `mdlm-mcd export` wrote, or a checkpoint in it."
        )
    tensors: dict[str, Tensor] = {}
    for name in names:
        part = read_file(os.path.join(path, name), os.path.join(source, shown(name)))
        tensors |= part.state_dict
    config = _json(path, CONFIG, source)
    notes = section(config, "mdlm_mcd") or part.mdlm_mcd
    return part._replace(state_dict=tensors, config=config or part.config, mdlm_mcd=notes)


def check_named(path: str, source: str) -> None:
    """Raise CheckpointError unless path is a file, a folder, or may be on the Hub."""
    if os.path.isdir(path) or os.path.isfile(path):
        return
    if HUB_ID.fullmatch(path) is None or _FILE.fullmatch(path):
        raise CheckpointError(
            f"{source} is no file: name a checkpoint, a .safetensors file, a Hugging "
            "Face folder, or a model on the Hub (org/name or org/name@revision)."
        )


def _download(name: str, source: str) -> str:
    """Return a local folder with the weights and the config of a Hub model, no code."""
    import huggingface_hub

    found = HUB_ID.fullmatch(name)
    for file in FILES:
        with border(
            f"{source} is neither on this disk nor could it be fetched from the Hugging Face Hub",
            "check the name and the network, or name a local copy",
            CheckpointError,
        ):
            folder = huggingface_hub.snapshot_download(
                found["repo"],
                revision=found["revision"],
                allow_patterns=[file, file.replace(".", "-*."), f"{file}.index.json", CONFIG],
            )
        if _weight_files(folder, source):
            break
    return folder


def _weight_files(folder: str, source: str) -> list[str]:
    """Return the files that make up a folder's weights, by its table if it has one."""
    for file in FILES:
        table = _json(folder, f"{file}.index.json", source)
        parts = list(section(table, "weight_map").values())
        if not all(isinstance(s, str) and os.path.basename(s) == s for s in parts):
            raise CheckpointError(
                f"{source} has a {file}.index.json that points out of its folder: use a copy "
                "from a source you trust."
            )
        if parts or os.path.isfile(os.path.join(folder, file)):
            return sorted(set(parts)) or [file]
    return []


def _json(folder: str, name: str, source: str) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one when there is no file."""
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        return {}
    with border(f"{source} has a {name} that is no JSON", "use another copy", CheckpointError):
        found = sanitize.loads(sanitize.read_bytes(path).decode("utf-8"))
    return found if isinstance(found, dict) else {}


PROCESSES = {"subs": "a masked model under SUBS", "mean": "a uniform-state model"}
PROCESSES["ar"] = "a left-to-right model"
UNIFORM = ("duo", "udlm")  # model_type of released folders


def check_process(weights: Weights, source: str, wanted: str = "subs") -> None:
    """Raise CheckpointError where a config beside the weights says another model.

    wanted: the parameterization that is needed, one of PROCESSES.
    """
    # MDLM's key, and Duo's; in SDTT's config it is a section.
    duo = section(weights.config, "algo").get("parameterization")
    found = weights.config.get("parameterization", duo)
    if str(weights.config.get("model_type")).lower() in UNIFORM:
        found = "mean"
    if isinstance(found, str) and found != wanted:
        raise CheckpointError(
            f"{source} was trained under parameterization={shown(found)}, and "
            f"{PROCESSES[wanted]} ({wanted}) is needed: name another checkpoint."
        )


def load_weights(
    module: nn.Module,
    parameters: Iterable[tuple[str, nn.Parameter]],
    weights: Weights,
    which: str,
    source: str,
    key: str = "algo.init_from",
) -> str:
    """Fill `module` strictly with the `ema` or `raw` weights; return which it took.

    parameters: (name, parameter) in the order of the EMA, which may cover more than `module`.
    For `ema`, a source of one set of weights gives that set; a training checkpoint without
    an EMA is refused. key: the setting that chose. Raises CheckpointError.
    """
    # A Hugging Face wrapper (`algo.backbone=hf_dit`) keeps the network inside.
    module = getattr(module, "backbone", module)
    load_strictly(module, _with_rotary(module, weights, source), source)
    if weights.is_final:
        if which == "ema":
            log.info("%s holds one set of weights, with no EMA beside it.", source)
        which = "the only"
    elif which == "ema":
        own, shadow = [p for _, p in parameters], weights.shadow_params or []
        if [x.shape for x in own] != [x.shape for x in shadow]:
            of = " of this model" if shadow else ""
            raise CheckpointError(
                f"{source} holds no EMA{of}: set {key}=raw to take its raw weights."
            )
        with torch.no_grad():
            for parameter, average in zip(own, shadow, strict=True):
                parameter.copy_(average)
    if not all(bool(p.isfinite().all()) for p in module.parameters()):
        raise CheckpointError(
            f"{source} holds weights that are not finite: its training diverged; use "
            "an earlier checkpoint of it."
        )
    step = weights.global_step
    return f"{which} weights" + ("" if step is None else f" of step {step}")


def _with_rotary(module: nn.Module, weights: Weights, source: str):
    """Return the weights with the model's own rotary frequencies where the file's lack.

    They follow from the number of heads, which nothing else in the weights shows, so a config
    beside them decides. In half precision they are rounded: a radian off at position 1,000.
    """
    own, given = module.state_dict().get(ROTARY), weights.state_dict.get(ROTARY)
    exact = given is not None and given.dtype.itemsize >= 4
    if own is None or exact or (given is not None and given.shape != own.shape):
        return weights.state_dict
    if given is None:
        sizes = model_sizes(weights.config)
        heads = sizes.get("hidden_dim", 0) // max(1, 2 * len(own))
        if heads and sizes.get("n_heads", heads) != heads:
            raise CheckpointError(
                f"{source} says it has {sizes['n_heads']} attention heads, and this model has "
                f"{heads}: set model.n_heads={sizes['n_heads']}."
            )
        log.info("%s holds no %s: computed for heads of %d.", source, ROTARY, 2 * len(own))
    return {**weights.state_dict, ROTARY: own}


# In the words of MDLMConfig, and the hosts' for two of them.
_SIZES = "hidden_dim cond_dim n_blocks n_heads model_length".split()
_FITS = dict.fromkeys(_SIZES, lambda x: type(x) is int and 0 < x <= MOST) | {
    "dropout": lambda x: isinstance(x, (int, float)) and 0 <= x < 1,
    "time_conditioning": lambda x: isinstance(x, int),
}
_NAMES = {"hidden_size": "hidden_dim", "length": "model_length"}


def model_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a host's config or a config.json says of the model, in MDLMConfig's words.

    Keys that are missing or of no use are left out.
    """
    found = {}
    for part in (config, section(config, "model"), section(config, "algo")):
        for key, value in part.items():
            name = _NAMES.get(key, key)
            if name in _FITS and _FITS[name](value):
                found[name] = value
    return found


def load_strictly(module: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Apply `load_state_dict` where every key and every shape must fit.

    Raises CheckpointError with torch's words for the first that do not.
    """
    with border(
        f"{source} does not fit this model",
        "train with the teacher's own `model`, `data` (vocabulary) and `algo` settings",
        CheckpointError,
    ):
        module.load_state_dict(weights)
