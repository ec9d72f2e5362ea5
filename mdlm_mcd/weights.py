"""Weights of masked diffusion models, from wherever they are kept.

A Lightning checkpoint of MDLM, Duo or SDTT, a bare file of tensors, a
`.safetensors` file, a Hugging Face folder or the name of one on the Hub: all end as
the tensors of one backbone under the public parameter names. No code that comes
with a file is run, and none is downloaded.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from . import pickles
from .errors import CheckpointError

log = logging.getLogger(__name__)

TABLES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLES = ("model.safetensors", "pytorch_model.bin")
CONFIG = "config.json"

HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w./-]+))?")
_FILE = re.compile(r".*\.(ckpt|pt|pth|bin|safetensors)")
ROTARY = "rotary_emb.inv_freq"


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


# Reading --------------------------------------------------------------------------


def read_weights(path: str, key: str = "algo.teacher_path") -> Weights:
    """The weights that `path` names: a file, a folder, or `org/name[@revision]`.

    What is there on the disk goes before the Hub. key: the setting that named it,
    for messages. Raises CheckpointError, a sentence, when it is missing, cannot be
    read, or holds no weights. Says in the log what was skipped.
    """
    source = f"{key}={path}"
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        return _read_folder(path, source)
    if os.path.isfile(path):
        return _read_file(path, source)
    hub = HUB_ID.fullmatch(path)
    if hub is None or _FILE.fullmatch(path):
        raise CheckpointError(
            f"{source} is no file: name a checkpoint, a .safetensors file, a Hugging "
            "Face folder, or a model on the Hub (org/name or org/name@revision)."
        )
    return _read_folder(_download(hub["repo"], hub["revision"], source), source)


def _download(repo: str, revision: str | None, source: str) -> str:
    """A local folder with the weights and the config of a Hub model, no code."""
    import huggingface_hub

    tries = (
        ["model.safetensors", "model-*.safetensors", TABLES[0]],
        ["pytorch_model.bin", "pytorch_model-*.bin", TABLES[1]],
    )
    try:
        for patterns in tries:
            folder = huggingface_hub.snapshot_download(
                repo, revision=revision, allow_patterns=[*patterns, CONFIG]
            )
            if _weight_files(folder, source):
                break
    except CheckpointError:
        raise
    except Exception as error:  # network, cache and Hub fail in many ways
        said = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{source} is neither on this disk nor could it be fetched from the "
            f"Hugging Face Hub ({type(error).__name__}: {said}): check the name and "
            "the network, or name a local copy."
        ) from error
    return folder


def _weight_files(folder: str, source: str) -> list[str]:
    """The files that make up a folder's weights, by its table if it has one."""
    for name in TABLES:
        table = _json(os.path.join(folder, name), source)
        shards = sorted(set((table.get("weight_map") or {}).values()))
        if any(os.path.basename(shard) != shard for shard in shards):
            raise CheckpointError(
                f"{source} has a {name} that points out of its folder: use a copy "
                "from a source you trust."
            )
        if shards:
            return shards
    return [n for n in SINGLES if os.path.isfile(os.path.join(folder, n))][:1]


def _json(path: str, source: str) -> dict[str, Any]:
    """The object in a JSON file; empty when there is no file."""
    try:
        with open(path, encoding="utf-8") as file:
            held = json.load(file)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise CheckpointError(
            f"{source} has a {os.path.basename(path)} that is no JSON ({error}): use "
            "another copy."
        ) from error
    return held if isinstance(held, dict) else {}


def _read_folder(folder: str, source: str) -> Weights:
    names = _weight_files(folder, source)
    if not names:
        raise CheckpointError(
            f"{source} is a folder without {SINGLES[0]} or {SINGLES[1]}: name a folder "
            "that `save_pretrained` or `mdlm-mcd export` wrote, or a checkpoint in it."
        )
    tensors: dict[str, Tensor] = {}
    parts = []
    for name in names:
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            raise CheckpointError(
                f"{source} lacks {name}, a part of its weights: fetch it again."
            )
        parts.append(_read_file(path, source))
        tensors |= parts[-1].state_dict
    config = _json(os.path.join(folder, CONFIG), source)
    noted = config.get("mdlm_mcd")
    return parts[0]._replace(
        state_dict=tensors,
        config=config or parts[0].config,
        mdlm_mcd=noted if isinstance(noted, dict) else parts[0].mdlm_mcd,
    )


def _read_file(path: str, source: str) -> Weights:
    if path.endswith(".safetensors"):
        return _read_safetensors(path, source)
    try:
        held, foreign = pickles.load(path)
    except Exception as error:
        raise CheckpointError(
            f"{source} cannot be read as a PyTorch checkpoint "
            f"({type(error).__name__}: {error}): it may be truncated; use another copy."
        ) from error
    if foreign:
        log.info("Skipped in %s what is not weights: %s.", path, _first(foreign, 20))
    held = held if isinstance(held, dict) else {}
    bare = "state_dict" not in held
    named = held if bare else held["state_dict"]
    if not isinstance(named, dict) or not any(_is_named(*kv) for kv in named.items()):
        raise CheckpointError(
            f"{source} holds no `state_dict`: it must be a checkpoint that Lightning "
            "wrote while one of the hosts trained, or a file of tensors by name."
        )
    average, hyper = held.get("ema"), held.get("hyper_parameters")
    config = pickles.plain(hyper.get("config")) if isinstance(hyper, dict) else None
    step, noted = held.get("global_step"), held.get("mdlm_mcd")
    return Weights(
        _backbone(named, path),
        average.get("shadow_params") if isinstance(average, dict) else None,
        step if isinstance(step, int) else None,
        is_final=bare,
        config=config if isinstance(config, dict) else {},
        mdlm_mcd=noted if isinstance(noted, dict) else {},
    )


def _is_named(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def _read_safetensors(path: str, source: str) -> Weights:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            said = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{source} cannot be read as safetensors ({error}): it may be truncated; "
            "use another copy."
        ) from error
    if not tensors:
        raise CheckpointError(f"{source} holds no tensors: use another file.")
    try:
        noted = json.loads(said.get("mdlm_mcd", "{}"))
    except ValueError:
        noted = {}
    step = said.get("global_step", "")
    return Weights(
        _backbone(tensors, path),
        global_step=int(step) if step.isdigit() else None,
        is_final=True,
        mdlm_mcd=noted,
    )


def _backbone(named: dict[str, Any], path: str) -> dict[str, Tensor]:
    """The backbone's entries under its own names; the log says what else there was.

    `backbone.` may stand twice (SDTT from a Hugging Face model) or not at all, and
    `torch.compile` leaves `_orig_mod.`.
    """
    own = {k.replace("_orig_mod.", ""): v for k, v in named.items() if _is_named(k, v)}
    skipped = {str(k) for k, v in named.items() if not _is_named(k, v)}
    while any(k.startswith("backbone.") for k in own):
        skipped |= {k for k in own if not k.startswith("backbone.")}
        own = {
            k.removeprefix("backbone."): v
            for k, v in own.items()
            if k.startswith("backbone.")
        }
    if skipped:
        log.info("Skipped in %s what is not the backbone: %s.", path, _first(skipped))
    return own


# Loading --------------------------------------------------------------------------


PROCESSES = {"subs": "a masked model under SUBS", "mean": "a uniform-state model"}


def check_process(weights: Weights, source: str, wanted: str = "subs") -> None:
    """Raises CheckpointError where a config beside the weights says another model.

    wanted: the parameterization that is needed, one of PROCESSES.
    """
    algo = weights.config.get("algo")
    algo = algo if isinstance(algo, dict) else {}
    # MDLM's key, and Duo's; in SDTT's config it is a section.
    said = weights.config.get("parameterization", algo.get("parameterization"))
    if isinstance(said, str) and said != wanted:
        raise CheckpointError(
            f"{source} was trained under parameterization={said}, and "
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
    """Fill `module` strictly with the `ema` or `raw` weights; answers what it took.

    parameters: (name, parameter) in the order of the EMA, which may cover more than
    `module`. A source of one set of weights answers `ema` with that set; a training
    checkpoint without an EMA is refused. Raises CheckpointError for what does not
    fit; key is the setting that chose, for messages.
    """
    # A Hugging Face wrapper (`algo.backbone=hf_dit`) keeps the network inside.
    module = getattr(module, "backbone", module)
    load_strictly(module, _with_rotary(module, weights, source), source)
    step = weights.global_step
    of_step = "" if step is None else f" of step {step}"
    if weights.is_final:
        if which == "ema":
            log.info("%s holds one set of weights, with no EMA beside it.", source)
        return "the only weights" + of_step
    if which == "ema":
        if weights.shadow_params is None:
            raise CheckpointError(
                f"{source} holds no EMA: set {key}=raw to start from its raw weights."
            )
        load_average(parameters, weights.shadow_params, source, f"{key}=raw")
    return f"{which} weights" + of_step


def _with_rotary(module: nn.Module, weights: Weights, source: str):
    """The rotary frequencies, which some files leave out, are the model's own.

    They follow from the number of heads, and only they show it in the weights; so
    a config beside them has the say.
    """
    own = module.state_dict().get(ROTARY)
    if own is None or ROTARY in weights.state_dict:
        return weights.state_dict
    sizes = model_sizes(weights.config)
    if {"n_heads", "hidden_dim"} <= sizes.keys():
        heads = sizes["hidden_dim"] // (2 * len(own))
        if heads != sizes["n_heads"]:
            raise CheckpointError(
                f"{source} says it has {sizes['n_heads']} attention heads, and this "
                f"model has {heads}: set model.n_heads={sizes['n_heads']}."
            )
    log.info("%s holds no %s: computed for heads of %d.", source, ROTARY, 2 * len(own))
    return {**weights.state_dict, ROTARY: own}


_SIZES = {
    "hidden_size": "hidden_dim", "hidden_dim": "hidden_dim",
    "length": "model_length", "model_length": "model_length",
    "cond_dim": "cond_dim", "n_blocks": "n_blocks", "n_heads": "n_heads",
    "dropout": "dropout", "time_conditioning": "time_conditioning",
}  # fmt: skip


def model_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a host's config or a config.json says of the model, in MDLMConfig's words.

    Keys among hidden_dim, cond_dim, n_blocks, n_heads, model_length, dropout and
    time_conditioning; those that are missing or no numbers are left out.
    """
    found = {}
    for part in (config, config.get("model"), config.get("algo")):
        for name, value in (part if isinstance(part, dict) else {}).items():
            if name in _SIZES and isinstance(value, (int, float)):
                found[_SIZES[name]] = value
    return found


def _first(names: Iterable[str], most: int = 3) -> str:
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def load_strictly(module: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """`load_state_dict` where every key and every shape must fit.

    Raises CheckpointError naming the first keys that do not.
    """
    own = module.state_dict()
    said = []
    if missing := own.keys() - weights.keys():
        said.append(f"it lacks {_first(missing)}")
    if surplus := weights.keys() - own.keys():
        said.append(f"it has no place for {_first(surplus)}")
    shapes = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if shapes:
        said.append(f"shapes differ: {_first(shapes)}")
    if said:
        raise CheckpointError(
            f"{source} does not fit this model: {'; '.join(said)}. Train with the "
            "teacher's own `model`, `data` (vocabulary) and `algo` settings."
        )
    module.load_state_dict(weights)


@torch.no_grad()
def load_average(
    parameters: Iterable[tuple[str, nn.Parameter]],
    shadow: list[Tensor],
    source: str,
    remedy: str = "algo.init_from=raw",
) -> None:
    """Copy an EMA's `shadow_params`, which carry no names, into named parameters.

    Raises CheckpointError when their number or a shape does not fit.
    """
    parameters = list(parameters)
    if len(parameters) != len(shadow):
        raise CheckpointError(
            f"{source} holds an EMA of {len(shadow)} tensors for a model of "
            f"{len(parameters)}: take its raw weights with {remedy}."
        )
    for (name, parameter), average in zip(parameters, shadow, strict=True):
        if parameter.shape != average.shape:
            raise CheckpointError(
                f"{source} holds an EMA whose tensor for {name} is "
                f"{tuple(average.shape)} instead of {tuple(parameter.shape)}: take its "
                f"raw weights with {remedy}."
            )
        parameter.copy_(average)
