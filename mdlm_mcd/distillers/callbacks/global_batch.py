"""Make a step's gradient that of its whole global batch, and guard its loss."""

from __future__ import annotations

import lightning as L
import torch
from torch import Tensor

from ...curriculum import Round
from ...head import LossOutput
from ..divergence_guard import LossGuard

SUMS = ("loss", "distil", "reveal", "entropy", "distil_rows", "reveal_rows", "tokens")


class GlobalBatch(L.Callback):
    """Compute the update of one process and one micro-batch, however a step is split.

    A micro-batch's loss is a mean over its own tokens, and Lightning averages these: with
    padding, a mean of means. How many tokens the step has is known at its end, so a common
    number stands in until then, and the gradient is corrected before its norm is taken.
    """

    def __init__(self, guard: LossGuard):
        self.guard = guard
        self.weight: Tensor | float = 1.0  # of the present micro-batch's loss
        self._sums: Tensor | None = None  # of the step in progress
        self._correction: Tensor | None = None  # known with the last micro-batch
        self._unread: tuple[Round, int, Tensor] | None = None  # a whole step's, for the guard

    def add(
        self, module, round_: Round, parts: LossOutput, tokens: Tensor, micro: int
    ) -> dict[str, Tensor] | None:
        """Add a micro-batch to its step; hand a whole one to the guard, and return its sums.

        tokens: the number that the micro-batch's loss is a mean over. The sums are those of
        `SUMS`, over all micro-batches and processes; None where micro-batches are to come.
        """
        trainer = module.trainer
        shares = trainer.world_size * trainer.accumulate_grad_batches
        self.weight, self._correction = 1.0, None
        # Filled on the device: to copy a number there would wait for it.
        rows = (tokens.new_full((), n) for n in (parts.distil_rows, parts.reveal_rows))
        found = (parts.loss.detach(), parts.distil, parts.reveal, parts.entropy, *rows, tokens)
        sums = torch.stack([x.float() for x in found])
        self._sums = sums = sums if micro == 0 or self._sums is None else self._sums + sums
        # Not the batch's own length: that may differ from one micro-batch or process to the next.
        nominal = module.config.loader.batch_size * module.config.model.length
        if shares > 1:
            self.weight = tokens.to(parts.loss.dtype) / nominal
        # An epoch's end cuts a step short; the optimizer steps all the same.
        if not (micro == trainer.accumulate_grad_batches - 1 or trainer.is_last_batch):
            return None
        if trainer.world_size > 1:
            sums = module.all_gather(sums).sum(0)
        self._unread = round_, module.global_step, sums
        if sums.device.type == "cpu":
            self.read()
        if shares > 1:  # without padding it is 1
            total = sums[-1] if sums.device.type == "mps" else sums[-1].double()
            self._correction = nominal * shares / total.clamp(min=1.0)
        return dict(zip(SUMS, sums, strict=True))

    def read(self, *_) -> None:
        """Guard the loss of the step before: to read it at once would wait for the device.

        Raises DivergenceError, in all processes or in none.
        """
        if self._unread is not None:
            (round_, step, sums), self._unread = self._unread, None
            _, distil, reveal, _, *rows, tokens = sums.tolist()
            self.guard.check(round_, step, distil + reveal, sum(rows), tokens)

    # Before the next step, and when the run is over; the model reads before a file is written.
    on_train_batch_start = on_train_end = read

    def on_after_backward(self, trainer, module):
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        if self._correction is not None and grads:
            torch._foreach_mul_(grads, self._correction)
        self._correction = None
