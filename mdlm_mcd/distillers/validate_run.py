"""Check, before the first step, what would cost a run its work later."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

from hydra.utils import to_absolute_path
from omegaconf import DictConfig

from ..checkpoints.files import check_writable, expanded
from ..errors import CheckpointError, ConfigError
from .checkpoint_io import LAST, PREVIOUS

# Student, its average, Adam's two moments and the teacher.
COPIES = 5
KEPT = 3  # the last, the one before, and one that is written


def check_run(module) -> None:
    """Check batch and folder, once there is a trainer. Raises ConfigError."""
    config, trainer = module.config, module.trainer
    check_batch(config.loader, trainer.world_size, trainer.accumulate_grad_batches)
    size = sum(p.numel() * p.element_size() for p in module.backbone.parameters())
    check_folder(str(config.checkpointing.save_dir), COPIES * size)


def check_processes(config: DictConfig) -> None:
    """Refuse a global batch too small for the processes that the config names.

    Lightning starts them before it asks a model anything. Raises ConfigError.
    """
    if config.get("mode", "train") != "train":
        return
    trainer, rows = config.get("trainer", {}), config.loader.global_batch_size
    counts = [trainer.get(key, 1) for key in ("devices", "num_nodes")]
    if all(type(count) is int and count > 0 for count in (*counts, rows)):
        _check_rows(rows, math.prod(counts))


def _check_rows(rows: int, processes: int) -> None:
    if rows < processes:
        raise ConfigError(
            f"loader.global_batch_size={rows} is less than a row for each of "
            f"{processes} processes: raise it, or take fewer trainer.devices."
        )


def check_batch(loader: DictConfig, processes: int, micros: int) -> None:
    """Raise ConfigError unless a step sees exactly `loader.global_batch_size` rows.

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
    """Raise ConfigError where checkpoints cannot be written, or KEPT have no room.

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


def find(path: str, key: str) -> str | None:
    """Return where a relative path is: Hydra may have moved to the run's folder."""
    path = expanded(path, key)
    places = (path, to_absolute_path(path)) if path else ()
    return next(filter(os.path.exists, places), None)


def find_evaluated(path: str) -> str:
    """Return `eval.checkpoint_path`, found. Raises CheckpointError where no file is."""
    found = path if "://" in path else find(path, "eval.checkpoint_path")
    if found is None:
        raise CheckpointError(
            f"eval.checkpoint_path={path or '(empty)'} is no file: name the checkpoint to open."
        )
    return found


def resumes(config: DictConfig) -> bool:
    """Return whether the host would go on from a checkpoint, which has its teacher."""
    path = _resume_path(config)
    return bool(path and os.path.exists(path))


def check_same_start(config: DictConfig, strategy) -> None:
    """Refuse a start that processes do not share, or from a checkpoint not there.

    Or some wait for ever for the others, who begin at another step. Hosts begin anew
    without the checkpoint, as a job that is requeued wants at its first start: that of
    the run's own folder may be missing. Raises CheckpointError and ConfigError.
    """
    found, path = resumes(config), _resume_path(config)
    decide = strategy.reduce_boolean_decision
    if decide(found, all=False) and not decide(found, all=True):
        raise CheckpointError(
            f"checkpointing.resume_ckpt_path={path} is there for some processes and not for "
            "others: name a checkpointing.save_dir that all machines share."
        )
    if not path or found or "://" in path:
        return
    usual = os.path.join(config.checkpointing.save_dir, "checkpoints", LAST)
    if os.path.realpath(path) != os.path.realpath(usual):
        place = find(path, "checkpointing.resume_ckpt_path")
        remedy = (
            f"hosts look from the run's folder, so name {place}" if place else "name one that is"
        )
        raise ConfigError(
            f"checkpointing.resume_ckpt_path={path} is not there: {remedy}, or begin anew "
            "with checkpointing.resume_from_ckpt=false."
        )


def _resume_path(config: DictConfig) -> str | None:
    kept = config.get("checkpointing", {})
    path = kept.get("resume_ckpt_path") if kept.get("resume_from_ckpt") else None
    return str(path) if path else None
