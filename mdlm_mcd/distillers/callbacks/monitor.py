"""Log the gradient's norm, and warn of a student whose predictions collapse."""

from __future__ import annotations

import logging

import lightning as L
import torch
from lightning.pytorch.strategies import FSDPStrategy

log = logging.getLogger(__name__)

DECAY = 0.9  # of the running mean of the student's entropy


class Monitor(L.Callback):
    """Log `NAME/grad_norm`, before clipping, and watch the student's entropy.

    min_entropy: nats per token learnt under which the student's own predictions raise a
    warning, once a round; None: never. name: of the algo.
    """

    def __init__(self, name: str, min_entropy: float | None):
        self.name, self.min_entropy = name, min_entropy
        self.entropy: float | None = None
        self._warned: int | None = None  # in which round

    def on_before_optimizer_step(self, trainer, module, optimizer):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        grads = [p.grad for p in parameters if p.grad is not None]
        if grads:
            norms = torch._foreach_norm([g.float() for g in grads])
            norm = torch.linalg.vector_norm(torch.stack(norms))
            if isinstance(trainer.strategy, FSDPStrategy):  # of this process's part so far
                square = norm.square()
                # With FSDP's hybrid strategies a group of processes has all shards.
                group = trainer.strategy.model.process_group
                torch.distributed.all_reduce(square, group=group)
                norm = square.sqrt()
            module.log(f"{self.name}/grad_norm", norm)
        if self.min_entropy is not None:
            self._watch(trainer, module.teacher.round)

    def _watch(self, trainer, index: int) -> None:
        logged = trainer.callback_metrics
        if not any(logged[f"{self.name}/rows_{kind}"] for kind in ("distil", "reveal")):
            return  # nothing was learnt, and nothing predicted
        now = float(logged[f"{self.name}/student_entropy"])
        past = now if self.entropy is None else self.entropy
        self.entropy = DECAY * past + (1 - DECAY) * now
        if self.entropy < self.min_entropy and self._warned != index:
            self._warned = index
            log.warning(
                "The student's predictions have an entropy of %.3g nats per token learnt at "
                "step %d (round %d), below algo.min_entropy=%g: it may be collapsing onto few "
                "tokens; raise algo.tau0, lower algo.tau_step, or stop at an earlier round.",
                self.entropy,
                trainer.global_step,
                index + 1,
                self.min_entropy,
            )
