"""Looks after a run: gradient norm, a teacher that stays, a student that collapses."""

from __future__ import annotations

import logging

import lightning as L
import torch

from ...errors import TeacherError
from .. import strategies

log = logging.getLogger(__name__)

# Reading all of the teacher's weights costs less than one part in a thousand then.
CHECK_EVERY = 100
DECAY = 0.9  # of the running mean of the student's entropy


class Health(L.Callback):
    """Logs `NAME/grad_norm`, before clipping, and watches over teacher and student.

    name: of the algo; steps_per_round: the teacher is checked at each round's end
    too; min_entropy: nats per token learnt under which the student's own predictions
    raise a warning, once a round; None: never.
    """

    def __init__(self, name: str, steps_per_round: int, min_entropy: float | None):
        self.name, self.steps_per_round = name, steps_per_round
        self.min_entropy = min_entropy
        self.entropy: float | None = None
        self._warned: int | None = None  # in which round
        self._last: int | None = None

    def state_dict(self):
        return {"entropy": self.entropy, "warned": self._warned}

    def load_state_dict(self, state):
        entropy, warned = state["entropy"], state["warned"]
        self.entropy = None if entropy is None else float(entropy)
        self._warned = None if warned is None else int(warned)

    def on_save_checkpoint(self, trainer, module, checkpoint):
        # No file keeps a teacher that is none: a resumed run could not tell.
        if module.teacher.round is not None:
            self._check_teacher(trainer, module.teacher, trainer.global_step)

    def on_before_optimizer_step(self, trainer, module, optimizer):
        grads = [
            p.grad
            for group in optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        if grads:
            norms = torch.stack([torch.linalg.vector_norm(g.float()) for g in grads])
            norm = torch.linalg.vector_norm(norms)
            if strategies.is_sharded(trainer):  # of this process's part so far
                norm = strategies.total_norm(trainer, norm)
            module.log(f"{self.name}/grad_norm", norm)

    def on_train_batch_end(self, trainer, module, *args):
        step = trainer.global_step
        if step == self._last:
            return  # within gradient accumulation
        self._last = step
        if step % CHECK_EVERY == 0 or step % self.steps_per_round == 0:
            self._check_teacher(trainer, module.teacher, step)
        if self.min_entropy is not None:
            self._check_entropy(trainer, module.teacher.round, step)

    def _check_teacher(self, trainer, teacher, step: int) -> None:
        # All processes stop, whichever of them saw it.
        if trainer.strategy.reduce_boolean_decision(teacher.is_as_taken()):
            return
        raise TeacherError(
            f"The teacher of round {teacher.round + 1} is not what it was when the "
            f"round began (seen at step {step}): something writes to "
            "`module.teacher.backbone`, a callback or a shared tensor; take that out "
            "and start the same command again: no checkpoint holds the change."
        )

    def _check_entropy(self, trainer, index: int, step: int) -> None:
        now = float(trainer.callback_metrics[f"{self.name}/student_entropy"])
        past = now if self.entropy is None else self.entropy
        self.entropy = DECAY * past + (1 - DECAY) * now
        if self.entropy < self.min_entropy and self._warned != index:
            self._warned = index
            log.warning(
                "The student's predictions have an entropy of %.3g nats per token "
                "learnt at step %d (round %d), below algo.min_entropy=%g: it may be "
                "collapsing onto few tokens; raise algo.tau0, lower algo.tau_step, or "
                "stop at an earlier round.",
                self.entropy,
                step,
                index + 1,
                self.min_entropy,
            )
