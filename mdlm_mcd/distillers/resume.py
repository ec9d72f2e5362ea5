"""Write into a checkpoint what a distillation needs, and go on from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from .. import __version__
from ..checkpoints import identity
from ..errors import CheckpointError
from . import loop_state, start
from .checkpoint_io import cannot_resume

KEY = "mdlm_mcd"  # of a checkpoint


def does_not_fit(path: str, why: str) -> CheckpointError:
    return cannot_resume(f"checkpointing.resume_ckpt_path={path} does not fit this run ({why})")


def check_run(
    config: DictConfig, checkpoint: Mapping[str, Any], path: str, total_steps: int
) -> None:
    """Refuse a checkpoint of another run, or one that no run of ours has written.

    total_steps: of this run. Raises CheckpointError.
    """
    note = checkpoint.get(KEY)
    if note is None:
        raise CheckpointError(
            f"checkpointing.resume_ckpt_path={path} was not written by "
            f"algo={config.algo.name}, so there is no distillation to resume: "
            "to distil from it set algo.teacher_path to it, and "
            "checkpointing.resume_from_ckpt=false or another run folder."
        )
    step = checkpoint.get("global_step")
    try:
        counted = checkpoint["loops"]["fit_loop"][loop_state.BATCHES]["current"]["processed"]
    except (KeyError, TypeError):
        counted = None
    # Without its place Lightning would begin at the first batch, and not say so.
    if not all(type(n) is int and n >= 0 for n in (step, counted)) or not isinstance(note, Mapping):
        raise does_not_fit(path, "it counts no steps or no batches")
    if not checkpoint.get("optimizer_states"):
        raise does_not_fit(path, "it has no optimizer_states")
    free = {"training.finetune_path"}  # a name of the teacher
    # More rounds change nothing in those before them.
    if step <= total_steps:
        free.add("algo.rounds")
    identity.check(checkpoint, OmegaConf.to_container(config, resolve=True), path, free)
    start.check_same_teacher(config, note, path)


def check_average(checkpoint: Mapping[str, Any], parameters: Sequence[Tensor]) -> None:
    """Refuse an EMA that is not one of `parameters`; hosts cut it to fit.

    Raises CheckpointError.
    """
    if "ema" not in checkpoint:
        raise CheckpointError(
            "The checkpoint holds no EMA, and this model would show that of its "
            "random start: set training.ema=0 to use the raw weights."
        )
    try:
        shapes = [p.shape for p in checkpoint["ema"]["shadow_params"]]
        fits = shapes == [p.shape for p in parameters] and 0 <= checkpoint["ema"]["decay"] <= 1
    except (AttributeError, KeyError, TypeError):
        fits = False
    if not fits:
        raise CheckpointError(
            "The checkpoint's ema is of another model: use the `model`, `data` and `algo` "
            "settings it was trained with."
        )


def note(module, step: int) -> dict[str, Any]:
    """Return what a checkpoint at optimizer step `step` says of the distillation."""
    algo, guard, teacher = module.config.algo, module.guard, module.teacher
    done = module.curriculum.at(step - 1) if step else None  # of the last step
    return {
        "version": __version__,
        "algo": algo.name,
        "loss": algo.loss,
        "teacher_path": start.teacher_path(module.config),
        "teacher_sha256": module.teacher_sha256,
        "round": done and done.index + 1,
        "delta": done and done.delta,
        "tau": done and done.tau,
        "guard": guard.running,
        "split": split(module),
        "teacher": None if teacher.round is None else teacher.state_dict(),
    }


def split(module) -> dict[str, int]:
    """Return processes, rows of a micro-batch, micro-batches: their product is a step."""
    return {
        "processes": module.trainer.world_size,
        "rows": module.config.loader.batch_size,
        "micro_batches": module.trainer.accumulate_grad_batches,
    }


def restore(module, checkpoint, path: str) -> None:
    """Take the guard, and a teacher in the middle of its round, out of a checkpoint."""
    found, step = checkpoint[KEY], checkpoint["global_step"]
    module.teacher_sha256 = found.get("teacher_sha256")
    module.guard.running = found.get("guard")
    loop_state.resplit(checkpoint, found.get("split"), split(module))
    if step >= module.curriculum.total_steps:
        loop_state.say("%s is finished at step %d; nothing to do.", path, step)
        return
    kept = module.config.algo.snapshot == "fixed" and step > 0
    if module.curriculum.at(step).is_first_step and not kept:
        return  # a new teacher is about to be taken from the student
    last = (step - 1) // module.curriculum.steps_per_round
    if found["teacher"] is None or found["teacher"]["round"] != last:
        raise does_not_fit(path, f"it has no teacher of round {last + 1}")
    module.teacher.load_state_dict(found["teacher"], like=module.backbone)
