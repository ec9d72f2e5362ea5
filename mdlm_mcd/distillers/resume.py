"""Write into a checkpoint what a distillation needs, and go on from it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from .. import __version__
from ..checkpoints import identity
from ..checkpoints.files import found_resume_path, resume_path
from ..errors import CheckpointError
from . import start

_say = rank_zero_only(logging.getLogger(__name__).info)

KEY = "mdlm_mcd"  # of a checkpoint


def resumes(config: DictConfig) -> bool:
    """Return whether the host would go on from a checkpoint, which has its teacher."""
    path = resume_path(config)
    return bool(path and os.path.exists(path))


def check_same_start(config: DictConfig, strategy) -> None:
    """Refuse a start that processes do not share, or from a checkpoint not there.

    Hosts begin anew without it. Raises CheckpointError and ConfigError.
    """
    found, decide = resumes(config), strategy.reduce_boolean_decision
    if decide(found, all=False) and not decide(found, all=True):
        raise CheckpointError(
            f"checkpointing.resume_ckpt_path={resume_path(config)} is there for some processes and "
            "not for others: name a checkpointing.save_dir that all machines share."
        )
    found_resume_path(config, lambda path: found or "://" in path)


def check_run(
    config: DictConfig, checkpoint: Mapping[str, Any], path: str, total_steps: int
) -> None:
    """Refuse a checkpoint of another run, or one that no run of ours has written.

    total_steps: of this run. Raises CheckpointError.
    """
    note = checkpoint.get(KEY)
    if not isinstance(note, Mapping):
        raise CheckpointError(
            f"checkpointing.resume_ckpt_path={path} was not written by algo={config.algo.name}: to "
            "distil from it set algo.teacher_path to it, and checkpointing.resume_from_ckpt=false "
            "or another run folder."
        )
    free = {"training.finetune_path"}  # a name of the teacher
    # More rounds change nothing in those before them.
    if checkpoint["global_step"] <= total_steps:
        free.add("algo.rounds")
    identity.check(checkpoint, OmegaConf.to_container(config, resolve=True), path, free)
    start.check_same_teacher(config, note, path)


def check_average(checkpoint: Mapping[str, Any], parameters: Sequence[Tensor]) -> None:
    """Refuse an EMA that is not one of `parameters`; hosts cut it to fit.

    Raises CheckpointError.
    """
    average = checkpoint.get("ema", {}).get("shadow_params", [])
    if [p.shape for p in average] != [p.shape for p in parameters]:
        raise CheckpointError(
            f"The checkpoint has an EMA of {len(average)} tensors that are not of this model's "
            f"{len(parameters)} shapes: use its own settings, or set training.ema=0."
        )


def note(module, step: int) -> dict[str, Any]:
    """Return what a checkpoint at optimizer step `step` says of the distillation."""
    algo, guard, teacher = module.config.algo, module.guard, module.teacher
    done = module.curriculum.at(step - 1) if step else None  # of the last step
    return {
        "version": __version__,
        "algo": algo.name,
        "loss": algo.loss,
        "teacher_path": "" if algo.init_from == "scratch" else start.teacher_path(module.config),
        "teacher_sha256": module.teacher_sha256,
        "round": done and done.index + 1,
        "delta": done and done.delta,
        "tau": done and done.tau,
        "guard": guard.running,
        "split": {"micro_batches": module.trainer.accumulate_grad_batches},
        "teacher": None if teacher.round is None else teacher.state_dict(),
    }


def restore(module, checkpoint, path: str) -> None:
    """Take the guard, and a teacher in the middle of its round, out of a checkpoint."""
    found, step = checkpoint[KEY], checkpoint["global_step"]
    module.teacher_sha256 = found.get("teacher_sha256")
    module.guard.running = found.get("guard")
    if split := found.get("split"):
        identity.resplit(checkpoint, split["micro_batches"], module.trainer.accumulate_grad_batches)
    if step >= module.curriculum.total_steps:
        _say("%s is finished at step %d; nothing to do.", path, step)
        return
    kept = module.config.algo.snapshot == "fixed" and step > 0
    # At a round's first step a new teacher is about to be taken from the student.
    if kept or not module.curriculum.at(step).is_first_step:
        module.teacher.load_state_dict(found["teacher"], like=module.backbone)
