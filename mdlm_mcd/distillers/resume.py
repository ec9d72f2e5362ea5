"""A checkpoint to go on from, held against the run that opens it.

What does not fit is told before the first step. The weights of an evaluation are not
looked at here.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ..checkpoints import identity
from ..checkpoints.weights import misfit
from ..errors import CheckpointError, shown
from . import validate_run
from .checkpoint_io import cannot_resume
from .loop_state import BATCHES

# What a value of another kind than expected ends in.
ODD = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


ADAMS = {"exp_avg", "exp_avg_sq"}  # the shape of their parameter


def is_odd(error: BaseException) -> bool:
    """Whether `error` is Python's own, and nobody's sentence."""
    return type(error) in ODD


def does_not_fit(path: str, why: str) -> CheckpointError:
    return cannot_resume(f"checkpointing.resume_ckpt_path={path} does not fit this run ({why})")


def check_run(
    config: DictConfig, checkpoint: Mapping[str, Any], path: str, total_steps: int
) -> None:
    """Refuse a checkpoint of another run, or one that no run of ours has written.

    total_steps: of this run. Raises CheckpointError.
    """
    note = checkpoint.get("mdlm_mcd")
    if note is None:
        raise CheckpointError(
            f"checkpointing.resume_ckpt_path={path} was not written by "
            f"algo={config.algo.name}, so there is no distillation to resume: "
            "to distil from it set algo.teacher_path to it, and "
            "checkpointing.resume_from_ckpt=false or another run folder."
        )
    if why := _places(checkpoint) or _distillation(note):
        raise does_not_fit(path, why)
    free = {"training.finetune_path"}  # a name of the teacher
    # More rounds change nothing in those before them.
    if checkpoint["global_step"] <= total_steps:
        free.add("algo.rounds")
    mine = OmegaConf.to_container(config, resolve=True)
    identity.check(checkpoint, mine, path, free)
    validate_run.check_same_teacher(config, note, path)


def check_shapes(
    checkpoint: Mapping[str, Any],
    path: str,
    weights: Mapping[str, Tensor],
    parameters: Sequence[Tensor],
    has_ema: bool,
) -> None:
    """Raises CheckpointError where tensors are of other shapes than this run's.

    weights: the model's `state_dict`. parameters: those that are trained, in the order
    of optimizer and average. Not for FSDP, which reads both by itself.
    """
    why = (
        _weights(checkpoint.get("state_dict"), weights)
        or _optimizers(checkpoint.get("optimizer_states"), parameters)
        or (_average(checkpoint.get("ema"), parameters) if has_ema else "")
    )
    if why:
        raise does_not_fit(path, why)


def check_average(held: Any, parameters: Sequence[Tensor]) -> None:
    """Raises ValueError for an EMA that is not one of `parameters`."""
    if why := _average(held, parameters):
        raise ValueError(why)


def _places(checkpoint: Mapping[str, Any]) -> str:
    for name in ("global_step", "epoch"):
        if not _is_count(checkpoint.get(name)):
            return f"its {name} is {shown(checkpoint.get(name))}"
    # Without it Lightning would begin at the first batch, and not say so.
    found: Any = checkpoint
    for name in ("loops", "fit_loop", BATCHES):
        found = found.get(name) if _is_mapping(found) else None
    counts = [found.get(k) for k in ("total", "current")] if _is_mapping(found) else []
    if not counts or not all(_is_mapping(c) and all(map(_is_count, c.values())) for c in counts):
        return f"its {BATCHES} counts no batches"
    return ""


def _weights(held: Any, own: Mapping[str, Tensor]) -> str:
    if not _is_named_tensors(held):
        return "its state_dict is not one of tensors"
    return misfit(own, held)


def _average(held: Any, parameters: Sequence[Tensor]) -> str:
    if not _is_mapping(held):
        return f"its ema is {shown(held)}"
    decay, count = held.get("decay"), held.get("num_updates")
    if not _is_number(decay) or not 0 <= decay <= 1:
        return f"its ema has a decay of {shown(decay)}"
    if count is not None and not _is_count(count):
        return f"its ema has num_updates {shown(count)}"
    shadow = held.get("shadow_params")
    if not isinstance(shadow, list) or not all(isinstance(x, Tensor) for x in shadow):
        return "its ema has no list of shadow_params"
    shapes = [x.shape for x in shadow], [p.shape for p in parameters]
    return "" if shapes[0] == shapes[1] else "its ema is of another model"


def _optimizers(held: Any, parameters: Sequence[Tensor]) -> str:
    if not isinstance(held, list) or not held:
        return "it has no optimizer_states"
    for one in held:
        state = one.get("state") if _is_mapping(one) else None
        if not _is_mapping(state) or not isinstance(one.get("param_groups"), list):
            return "its optimizer_states are not an optimizer's"
        for place, of_one in state.items():
            known = _is_count(place) and place < len(parameters)
            if not known or not _is_mapping(of_one):
                return f"its optimizer_states are of no parameter, at {shown(place)}"
            for name in ADAMS & of_one.keys():  # other optimizers keep what they will
                shape = getattr(of_one[name], "shape", None)
                if shape != parameters[place].shape:
                    return f"its optimizer's {name} is of another model"
            step = of_one.get("step", 0)
            if not (isinstance(step, Tensor) or _is_number(step)):
                return f"its optimizer's step is {shown(step)}"
    return ""


def _distillation(held: Any) -> str:
    if not _is_mapping(held):
        return f"its mdlm_mcd is {shown(held)}"
    guard, split, teacher = (held.get(k) for k in ("guard", "split", "teacher"))
    for name in ("teacher_path", "teacher_sha256"):
        if not isinstance(held.get(name), str | None):
            return f"its {name} is {shown(held[name])}"
    if guard is not None and not (_is_number(guard) and math.isfinite(guard)):
        return f"its guard is {shown(guard)}"
    if split is not None and not (
        _is_mapping(split)
        and sorted(map(str, split)) == ["micro_batches", "processes", "rows"]
        and all(_is_count(x) and x for x in split.values())
    ):
        return f"its split is {shown(split)}"
    if teacher is not None and not (
        _is_mapping(teacher)
        and _is_count(teacher.get("round"))
        and _is_named_tensors(teacher.get("backbone"))
    ):
        return "its teacher has no round or no weights"
    return ""


def _is_mapping(x: Any) -> bool:
    return isinstance(x, Mapping)


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def _is_count(x: Any) -> bool:
    return type(x) is int and x >= 0


def _is_named_tensors(x: Any) -> bool:
    return _is_mapping(x) and all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in x.items()
    )


class Restoring(L.Callback):
    """What Lightning, hosts or callbacks cannot take from a checkpoint, in a sentence.

    Theirs is most of the file, and they do not look at it first.
    """

    def on_exception(self, trainer, module, exception):
        if is_odd(exception) and _is_restoring(exception):
            why = f"{type(exception).__name__}: {shown(exception, 200)}"
            raise does_not_fit(str(trainer.ckpt_path), why) from exception


def _is_restoring(error: BaseException) -> bool:
    return any(
        frame.f_globals.get("__name__", "").endswith("checkpoint_connector")
        and frame.f_code.co_name.lstrip("_").startswith(("restore", "resume"))
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )
