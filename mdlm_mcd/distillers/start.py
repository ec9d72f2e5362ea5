"""Start a distillation: find the teacher that the user names, and load it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
from hydra.utils import to_absolute_path
from omegaconf import DictConfig, OmegaConf

from ..checkpoints import identity
from ..checkpoints.files import expanded
from ..checkpoints.weights import (
    Weights,
    check_named,
    check_process,
    load_weights,
    model_sizes,
    read_weights,
)
from ..errors import CheckpointError, ConfigError, shown

log = logging.getLogger(__name__)

# Settings that make the embedded host's own tokenizer, which it trains on the text.
BPE = ("train", "files", "valid_files", "separator", "max_chars", "vocab_size")


def find(path: str, key: str) -> str | None:
    """Return where a relative path is: Hydra may have moved to the run's folder."""
    path = expanded(path, key)
    places = (path, to_absolute_path(path)) if path else ()
    return next(filter(os.path.exists, places), None)


def teacher_path(config: DictConfig) -> str:
    """Return `algo.teacher_path`, or the host's `training.finetune_path`; or ''."""
    training = config.get("training", {})
    return str(config.algo.teacher_path or training.get("finetune_path") or "")


def find_teacher(config: DictConfig) -> str:
    """Return where the teacher is: a path that exists, or what may be a name on the Hub.

    Raises ConfigError where none is named, and CheckpointError.
    """
    path, algo = teacher_path(config), config.algo
    if not path:
        raise ConfigError(
            f"algo.teacher_path is empty, and algo={algo.name} starts from a trained model: name "
            "its checkpoint (or set algo.init_from=scratch to distil from random weights)."
        )
    found = find(path, "algo.teacher_path") or path
    check_named(found, f"algo.teacher_path={path}")
    return found


def check_evaluated(path: str) -> None:
    """Raise CheckpointError for an `eval.checkpoint_path` that Lightning does not load."""
    if not path or os.path.isdir(path) or path.endswith(".safetensors"):
        raise CheckpointError(
            f"eval.checkpoint_path={path} is no checkpoint that a host evaluates: name a .ckpt of "
            "its training (an exported folder opens by the host's backbone=hf_dit and its absolute "
            "path)."
        )


def load_teacher(module) -> str | None:
    """Load the teacher's weights into the student, and nothing else of its run.

    Return their SHA-256; None for algo.init_from=scratch. Raises ConfigError, CheckpointError.
    """
    algo, path, sha256 = module.config.algo, teacher_path(module.config), None
    if algo.init_from != "scratch":
        weights, source = read_weights(find_teacher(module.config)), f"algo.teacher_path={path}"
        check_teacher(module, weights, source)
        sha256 = sha256_of(weights, algo.init_from)
        parameters = module.ema_parameters()
        taken = load_weights(module.backbone, parameters, weights, algo.init_from, source)
        log.info("Distilling %s (%s).", path, taken)
    # What a host leaves that has opened the teacher's checkpoint.
    module.fast_forward_epochs = module.fast_forward_batches = None
    if module.ema:
        parameters = (p for _, p in module.ema_parameters())
        module.ema = type(module.ema)(parameters, decay=module.config.training.ema)
        module.ema.move_shadow_params_to_device(module.device)
        # Under bf16-true a step of 1 - decay would vanish.
        module.ema.shadow_params = [
            p.to(torch.promote_types(p.dtype, torch.float32)) for p in module.ema.shadow_params
        ]
    return sha256


def check_teacher(module, weights: Weights, source: str) -> None:
    """Refuse a teacher that fits the student by its shapes alone. Raises CheckpointError."""
    config, theirs = module.config, model_sizes(weights.config)
    check_process(weights, source, module.parameterization)
    if not identity.check_tokenizer(weights.config, module.tokenizer, source):
        warn_of_other_tokens(weights, source, config.data)
    timed, length = theirs.get("time_conditioning"), theirs.get("model_length")
    key, mine = module.model_setting(config, "time_conditioning")
    if timed is not None and bool(timed) != bool(mine):
        raise CheckpointError(
            f"{source} was trained with time_conditioning={bool(timed)}, and this "
            f"run has {key}={mine}: set {key}={bool(timed)}."
        )
    check_length(length, config, source)


def check_length(length: int | None, config: DictConfig, source: str) -> None:
    """Refuse a teacher of shorter rows than the student's. Raises CheckpointError."""
    # Rotary positions run at any length, but of distances it never saw a teacher knows nothing.
    if length is not None and config.model.length > length:
        raise CheckpointError(
            f"{source} was trained on rows of {length} tokens: set model.length={length} in place "
            f"of {config.model.length}, or train the teacher further at that length."
        )


def warn_of_other_tokens(weights: Weights, source: str, data: DictConfig) -> None:
    """Warn where the teacher's tokens may differ: ids fit whatever they stand for."""
    theirs, mine = weights.config.get("data"), OmegaConf.to_container(data, resolve=True)
    if not isinstance(theirs, dict) or not theirs.get("tokenizer_name_or_path"):
        return
    own = BPE if theirs["tokenizer_name_or_path"] == "bpe" else ()
    for key in ("tokenizer_name_or_path", *own):
        if mine.get(key) != theirs.get(key, mine.get(key)):
            log.warning(
                "%s was trained with data.%s=%s, and this run has %s: make sure that both "
                "tokenize alike, or the same ids are other words to teacher and student.",
                source,
                key,
                shown(theirs[key]),
                mine.get(key),
            )
            return


def sha256_of(weights: Weights, init_from: str) -> str:
    """Return the SHA-256 of the weights that `algo.init_from` takes."""
    average = weights.shadow_params if init_from == "ema" else None
    if average is None:
        return identity.sha256(weights.state_dict)
    return identity.sha256({str(i): p for i, p in enumerate(average)})


def check_same_teacher(config: DictConfig, note: Mapping[str, Any], at: str) -> None:
    """Refuse to go on with another teacher than the one that the run began with.

    note: of the distillation, in the checkpoint `at`. A teacher that is not on the disk is
    known by its name, and nothing is fetched. Raises CheckpointError.
    """
    path, was = teacher_path(config), note.get("teacher_path")
    if config.algo.init_from == "scratch" or was is None:
        return
    sha256, found = note.get("teacher_sha256"), find(path, "algo.teacher_path")
    named = [was, path]
    if sha256 and found:
        mine = sha256_of(read_weights(found), config.algo.init_from)
        named = [f"{was} (SHA-256 {sha256[:12]})", f"{path} (SHA-256 {mine[:12]})"]
        if mine == sha256:
            return
    if not identity.is_same(*named):
        identity.refuse(at, [("algo.teacher_path", *named)])
