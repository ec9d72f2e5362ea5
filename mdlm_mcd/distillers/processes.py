"""Several processes, and several micro-batches, compute the update of one."""

from __future__ import annotations

import torch

from .. import head
from ..curriculum import Round
from ..errors import TeacherError
from ..teacher import Teacher
from .guard import LossGuard, StepSums


class Processes:
    """A step's gradient is that of its whole global batch, whoever computed it.

    For a `LightningModule` with `backbone`, `ema` and `host_named_parameters`, before
    the host's class.
    """

    teacher: Teacher
    guard: LossGuard
    _step_sums: torch.Tensor | None = None  # of the step in progress
    _nominal: int = 0  # tokens that a micro-batch is expected to have
    _tokens: torch.Tensor | None = None  # and those that the present one has
    _correction: float | None = None  # of the gradient, known with the last micro-batch

    # The teacher of a round -------------------------------------------------------

    def _take_teacher(self, index: int) -> None:
        kind = self.config.algo.snapshot
        if kind == "fixed" and self.teacher.backbone is not None:
            self.teacher.keep(index)
        elif kind == "ema":
            own = [p for _, p in self.host_named_parameters()]
            self.ema.store(own)
            self.ema.copy_to(own)
            self.teacher.snapshot(self.backbone, index)
            self.ema.restore(own)
        else:
            self.teacher.snapshot(self.backbone, index)
        if self.trainer.world_size > 1:
            self._check_same_teacher()

    def _check_same_teacher(self) -> None:
        # A checksum is a number below 2^64, and tensors hold signed ones.
        own = torch.tensor(self.teacher.sum - 2**63, device=self.device)
        sums = self.all_gather(own).flatten().tolist()
        if odd := [rank for rank, other in enumerate(sums) if other != sums[0]]:
            raise TeacherError(
                f"Round {self.teacher.round + 1} begins with other weights on process "
                f"{', '.join(map(str, odd))} than on process 0 (checksums differ): a "
                "callback changes them on some processes alone, or their gradients are "
                "not averaged; take that out, use strategy=ddp, and resume from the "
                "last checkpoint."
            )

    # One optimizer step -----------------------------------------------------------

    def _watch(
        self, stage: Round, parts: head.Supervision, valid, first: bool, last: bool
    ) -> None:
        """Add up each optimizer step; let the guard see it as a whole."""
        tokens = valid.sum()
        self._nominal = self.config.loader.batch_size * valid.shape[1]
        self._tokens, self._correction = tokens, None
        shares = self.trainer.world_size * self.trainer.accumulate_grad_batches
        if self.guard.mode == "off" and shares == 1:
            return
        sums = torch.stack(
            [
                torch.as_tensor(x, device=self.device).float()
                for x in (
                    parts.distil, parts.reveal, parts.distil_rows, parts.reveal_rows,
                    tokens,
                )
            ]
        )  # fmt: skip
        fresh = first or self._step_sums is None
        self._step_sums = sums if fresh else self._step_sums + sums
        if not last:
            return
        sums = self._step_sums
        if self.trainer.world_size > 1:
            # All processes see the same sums, so all of them stop or none does.
            sums = self.all_gather(sums).sum(0)
        step = StepSums(*sums.tolist())
        self.guard.check(stage, self.global_step, step)
        if shares > 1:
            self._correction = self._nominal * shares / max(step.tokens, 1.0)

    def backward(self, loss, *args, **kwargs):
        """Weigh this micro-batch's loss by its tokens.

        It is a mean over its own tokens, and Lightning averages over micro-batches and
        processes: with padding, a mean of means. How many tokens the whole step has is
        known at its end, so a common number stands in until then.
        """
        if self.trainer.world_size * self.trainer.accumulate_grad_batches > 1:
            loss = loss * (self._tokens.to(loss.dtype) / self._nominal)
        super().backward(loss, *args, **kwargs)

    def on_after_backward(self):
        super().on_after_backward()
        # Without padding the correction is 1; the norm is taken and clipped after it.
        if self._correction not in (None, 1.0):
            for p in self.parameters():
                if p.grad is not None:
                    p.grad.mul_(self._correction)
        self._correction = None
