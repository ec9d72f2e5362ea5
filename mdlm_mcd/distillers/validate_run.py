"""Check, before the first step, what would cost a run its work later."""

from __future__ import annotations

import os

from hydra.utils import to_absolute_path
from omegaconf import DictConfig

from ..checkpoints.files import check_writable, expanded
from ..errors import CheckpointError, ConfigError
from .checkpoint_io import LAST


def check_run(module) -> None:
    """Check batch and folder, once there is a trainer. Raises ConfigError."""
    config, trainer = module.config, module.trainer
    check_batch(config.loader, trainer.world_size, trainer.accumulate_grad_batches)
    folder = str(config.checkpointing.save_dir)
    check_writable(f"checkpointing.save_dir={folder}", os.path.join(folder, "checkpoints"))


def check_batch(loader: DictConfig, processes: int, micros: int) -> None:
    """Raise ConfigError unless a step sees exactly `loader.global_batch_size` rows.

    The hosts round up: with 8 rows in batches of 3 they train on 9.
    """
    wanted, each = loader.global_batch_size, loader.batch_size
    rows = each * processes * micros
    if rows != wanted or rows < 1:
        raise ConfigError(
            f"loader.global_batch_size={wanted} is not what a step would see: "
            f"loader.batch_size={each} on {processes} process(es), accumulated "
            f"{micros} time(s), makes {rows}; set loader.global_batch_size={rows}, or "
            "sizes that divide it."
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
    usual = os.path.join(config.checkpointing.save_dir, "checkpoints", LAST)
    own = path and os.path.realpath(path) == os.path.realpath(usual)
    if path and not (found or own or "://" in path):
        raise ConfigError(
            f"checkpointing.resume_ckpt_path={path} is not there (hosts look from the run's "
            "folder): give an absolute path, or begin anew with "
            "checkpointing.resume_from_ckpt=false."
        )


def _resume_path(config: DictConfig) -> str | None:
    kept = config.get("checkpointing", {})
    path = kept.get("resume_ckpt_path") if kept.get("resume_from_ckpt") else None
    return str(path) if path else None
