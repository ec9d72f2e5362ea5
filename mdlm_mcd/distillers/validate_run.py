"""What would cost a run its work later, looked at before its first step."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn as nn
from hydra.utils import to_absolute_path
from omegaconf import DictConfig, OmegaConf

from ..checkpoints import identity
from ..checkpoints.files import check_writable, expanded
from ..checkpoints.weights import Weights, check_named, model_sizes, read_weights
from ..errors import CheckpointError, ConfigError, shown
from .checkpoint_io import LAST, PREVIOUS

log = logging.getLogger(__name__)

# Student, its average, Adam's two moments and the teacher.
COPIES = 5
KEPT = 3  # the last, the one before, and one that is written


def check_run(config: DictConfig, trainer, backbone: nn.Module) -> None:
    """What is known once there is a trainer. Raises ConfigError."""
    check_batch(config.loader, trainer.world_size, trainer.accumulate_grad_batches)
    size = sum(p.numel() * p.element_size() for p in backbone.parameters())
    check_folder(str(config.checkpointing.save_dir), COPIES * size)


def check_processes(config: DictConfig) -> None:
    """Refuse what starting the processes would tell, where the config names them.

    Lightning starts them before it asks a model anything. Raises ConfigError.
    """
    if config.get("mode", "train") != "train":
        return
    trainer = config.get("trainer", {})
    counts = [trainer.get(key, 1) for key in ("devices", "num_nodes")]
    if all(type(count) is int and count > 0 for count in counts):
        _check_rows(config.loader.global_batch_size, math.prod(counts))


def check_whole(config: DictConfig) -> None:
    """Raises ConfigError for a trial of a few steps, which Lightning does not keep."""
    value = config.get("trainer", {}).get("fast_dev_run")
    if value and config.get("mode", "train") == "train":
        raise ConfigError(
            f"trainer.fast_dev_run={value} ends a run after its first steps and keeps "
            "nothing: leave it out; algo.rounds=1 algo.steps_per_round=2 "
            "trainer.max_steps=2 makes a whole run that is short."
        )


def _check_rows(wanted: int, processes: int) -> None:
    if type(wanted) is int and wanted < processes:
        raise ConfigError(
            f"loader.global_batch_size={wanted} is less than a row for each of "
            f"{processes} processes: raise it, or take fewer trainer.devices."
        )


def check_batch(loader: DictConfig, processes: int, micros: int) -> None:
    """Raises ConfigError unless a step sees exactly `loader.global_batch_size` rows.

    The hosts round up: with 8 rows in batches of 3 they train on 9.
    """
    wanted, each = loader.global_batch_size, loader.batch_size
    for key, value in (
        ("loader.global_batch_size", wanted),
        ("loader.batch_size", each),
        ("trainer.accumulate_grad_batches", micros),
    ):
        if type(value) is not int or value < 1:
            raise ConfigError(f"{key}={value} must be a whole number of at least 1.")
    _check_rows(wanted, processes)
    rows = each * processes * micros
    if rows != wanted:
        raise ConfigError(
            f"loader.global_batch_size={wanted} is not what a step would see: "
            f"loader.batch_size={each} on {processes} process(es), accumulated "
            f"{micros} time(s), makes {rows}; set loader.global_batch_size={rows}, or "
            "sizes that divide it."
        )


def check_folder(folder: str, size: int) -> None:
    """Raises ConfigError where checkpoints cannot be written, or KEPT have no room.

    folder: `checkpointing.save_dir`, left to the host where it has a scheme (`s3://`);
    size: of a checkpoint, in bytes.
    """
    if "://" in folder:
        return
    inside = Path(folder, "checkpoints")
    check_writable(f"checkpointing.save_dir={folder}", inside)
    free = shutil.disk_usage(inside).free
    # A run that goes on has some of them; two names may be of one file.
    names = (inside / LAST, inside / PREVIOUS)
    missing = KEPT - len({path.stat().st_ino for path in names if path.exists()})
    if free < missing * size:
        raise ConfigError(
            f"checkpointing.save_dir={folder} has {free / 2**30:.2f} GiB left, and "
            f"{missing} more checkpoints of this run take about "
            f"{missing * size / 2**30:.2f}: make room, or name another folder."
        )


def teacher_path(config: DictConfig) -> str:
    """`algo.teacher_path`, or the host's `training.finetune_path`; empty for none."""
    training = config.get("training", {})
    return config.algo.teacher_path or training.get("finetune_path") or ""


def find_teacher(config: DictConfig) -> str:
    """Where the teacher is: a path that is there, or what may be a name on the Hub.

    Raises ConfigError where none is named, and CheckpointError.
    """
    path, algo = teacher_path(config), config.algo
    if not path:
        raise ConfigError(
            f"algo.teacher_path is empty, and algo={algo.name} starts from a trained "
            "model: name its checkpoint (or set algo.init_from=scratch to distil from "
            "random weights)."
        )
    if not isinstance(path, str):
        raise ConfigError(
            f"algo.teacher_path={path} is no path: name one checkpoint, in quotes "
            "where its name is a number."
        )
    found = _find(path, "algo.teacher_path") or path
    check_named(found, f"algo.teacher_path={path}")
    return found


def sha256_of(weights: Weights, init_from: str) -> str:
    """The SHA-256 of the weights that `algo.init_from` takes."""
    average = weights.shadow_params if init_from == "ema" else None
    if average is None:
        return identity.sha256(weights.state_dict)
    return identity.sha256({str(i): p for i, p in enumerate(average)})


def check_same_teacher(config: DictConfig, note: Mapping[str, Any], at: str) -> None:
    """Refuse to go on with another teacher than the one that the run began with.

    note: what the checkpoint `at` notes of the distillation. A teacher that is not on
    the disk is known by its name: the checkpoint has the student, and nothing is
    fetched. Raises CheckpointError.
    """
    path, was = str(teacher_path(config)), note.get("teacher_path")
    if config.algo.init_from == "scratch" or was is None:
        return
    sha256, found = note.get("teacher_sha256"), _find(path, "algo.teacher_path")
    named = [was, path]
    if sha256 and found:
        mine = sha256_of(read_weights(found), config.algo.init_from)
        named = [f"{was} (SHA-256 {sha256[:12]})", f"{path} (SHA-256 {mine[:12]})"]
        if mine == sha256:
            return
    if not identity.is_same(*named):
        identity.refuse(at, [("algo.teacher_path", *named)])


def resumes(config: DictConfig) -> bool:
    """Whether the host would go on from a checkpoint, which has its teacher inside."""
    path = _resume_path(config)
    return bool(path and os.path.exists(path))


def check_resume(config: DictConfig) -> None:
    """Refuse a checkpoint to go on from that is not there, other than the run's own.

    Hosts begin anew without it, as a job that is requeued wants at its first start.
    Raises ConfigError.
    """
    path = _resume_path(config)
    if not path or os.path.exists(path) or "://" in path:
        return
    usual = os.path.join(config.checkpointing.save_dir, "checkpoints", "last.ckpt")
    if os.path.realpath(path) == os.path.realpath(usual):
        return
    found = _find(path, "checkpointing.resume_ckpt_path")
    raise ConfigError(
        f"checkpointing.resume_ckpt_path={path} is not there: "
        + (
            f"hosts look from the run's folder, so name {found}"
            if found
            else "name a checkpoint that is"
        )
        + ", or begin anew with checkpointing.resume_from_ckpt=false."
    )


def _find(path: str, key: str) -> str | None:
    """Where a relative path is: Hydra may have moved to the run's folder."""
    path = expanded(path, key)
    places = (path, to_absolute_path(path)) if path else ()
    return next(filter(os.path.exists, places), None)


def find_evaluated(path: str) -> str:
    """`eval.checkpoint_path`, found. Raises CheckpointError where no file is."""
    found = path if "://" in path else _find(path, "eval.checkpoint_path")
    if found is None:
        raise CheckpointError(
            f"eval.checkpoint_path={path or '(empty)'} is no file: name the checkpoint to open."
        )
    return found


def _resume_path(config: DictConfig) -> str | None:
    kept = config.get("checkpointing", {})
    path = kept.get("resume_ckpt_path") if kept.get("resume_from_ckpt") else None
    return str(path) if path else None


def check_tokenizer(weights: Weights, source: str, data: DictConfig) -> None:
    """Say where the teacher's tokens may be others: ids fit whatever they stand for."""
    theirs = weights.config.get("data")
    if not isinstance(theirs, dict) or not theirs.get("tokenizer_name_or_path"):
        return
    # The embedded host trains its own on the text, so that other text is another one.
    keys = ["tokenizer_name_or_path"]
    if theirs[keys[0]] == "bpe":
        keys += [
            k
            for k in ("train", "files", "valid_files", "separator", "max_chars", "vocab_size")
            if k in theirs
        ]
    mine = OmegaConf.to_container(data, resolve=True)
    for key in keys:
        if mine.get(key) != theirs[key]:
            log.warning(
                "%s was trained with data.%s=%s, and this run has %s: make sure that "
                "both tokenize alike, or the same ids are other words to teacher and "
                "student.",
                source,
                key,
                shown(theirs[key]),
                mine.get(key),
            )
            return


def check_length(weights: Weights, source: str, length: int) -> None:
    """Refuse a student longer than its teacher's rows; say where it is shorter.

    Rotary positions run at any length, but of distances it never saw a teacher
    predicts nothing worth learning. Raises CheckpointError.
    """
    theirs = model_sizes(weights.config).get("model_length")
    if theirs is None or theirs == length:
        return
    if length > theirs:
        raise CheckpointError(
            f"{source} was trained on rows of {theirs} tokens, and this run has "
            f"model.length={length}: set model.length={theirs}, or train the teacher "
            "further at that length."
        )
    log.warning(
        "%s was trained on rows of %d tokens, and this run has model.length=%d: a "
        "shorter student is not comparable with its teacher at full length.",
        source,
        theirs,
        length,
    )
