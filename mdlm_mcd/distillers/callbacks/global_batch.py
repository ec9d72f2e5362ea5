"""Make a step's gradient that of its whole global batch, and guard its loss."""

from __future__ import annotations

import logging
import math

import lightning as L
import torch
from torch import Tensor

from ...curriculum import Round
from ...errors import DivergenceError
from ...head import LossOutput

log = logging.getLogger(__name__)

# Knowing nothing costs log(vocab) nats a token: many times that is a broken target.
TIMES_IGNORANCE = 10.0
# A run that starts well can break later: a second bound, on the loss against its past.
TIMES_RUNNING = 20.0
DECAY = 0.98


class LossGuard:
    """Watch the loss of whole optimizer steps.

    Not of micro-batches: with stratified times the last one has the smallest t, hardly a
    masked token, and almost only cross-entropy in its loss.

    mode: `stop` raises DivergenceError, `warn` logs once, `off` (or false, as YAML reads it)
    checks nothing. `running`: the loss's scale, nats per token; it belongs into the checkpoint.
    """

    def __init__(self, mode: str | bool, kind: str, vocab_size: int):
        self.mode, self.kind = mode or "off", kind
        self.ceiling = TIMES_IGNORANCE * math.log(vocab_size)
        self.running: float | None = None
        self.warned = False

    def check(self, round_: Round, step: int, nats: float, rows: float, tokens: float) -> None:
        """Judge one step, by sums over its micro-batches and all processes.

        nats: the loss; rows: tokens learnt; tokens: the host's count, masked or not.
        """
        if self.mode == "off" or rows == 0:
            return
        learnt, token = nats / rows, nats / tokens
        past = token if self.running is None else self.running
        # The floor keeps a loss that has all but vanished from tripping the bound.
        bound = max(TIMES_RUNNING * past, 1.0)
        if math.isfinite(nats) and learnt <= self.ceiling and token <= bound:
            self.running = DECAY * past + (1 - DECAY) * token
            return
        message = (
            f"algo.loss={self.kind} is {learnt:.4g} nats per token learnt (at most "
            f"{self.ceiling:.4g} was to be expected) and {token:.4g} per token (at most "
            f"{bound:.4g}) at step {step} (round {round_.index + 1}, delta={round_.delta:g}, "
            f"tau={round_.tau:g}): in place of algo=mcd's kl_bwd, which costs about 1e6 where "
            "only the teacher sees a token, use algo.loss=hybrid; lower optim.lr; in float16 use "
            "trainer.precision=bf16; at the first step look for another algo.teacher_path or "
            "tokenizer; or set algo.guard=warn to go on."
        )
        if self.mode == "stop":
            raise DivergenceError(message)
        if not self.warned:
            self.warned = True
            log.warning(message)


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

    def add(self, module, round_: Round, parts: LossOutput, tokens: Tensor, micro: int) -> None:
        """Add a micro-batch to its step; hand a whole one to the guard.

        tokens: the number that its loss is a mean over.
        """
        trainer = module.trainer
        shares = trainer.world_size * trainer.accumulate_grad_batches
        self.weight, self._correction = 1.0, None
        if self.guard.mode == "off" and shares == 1:
            return
        named = (parts.distil + parts.reveal, parts.distil_rows + parts.reveal_rows, tokens)
        sums = torch.stack([torch.as_tensor(x, device=module.device).float() for x in named])
        self._sums = sums if micro == 0 or self._sums is None else self._sums + sums
        # Not the batch's own length: that may differ from one micro-batch or process to the next.
        nominal = module.config.loader.batch_size * module.config.model.length
        # An epoch's end cuts a step short; the optimizer steps all the same.
        if micro == trainer.accumulate_grad_batches - 1 or trainer.is_last_batch:
            sums = self._sums
            if trainer.world_size > 1:
                sums = module.all_gather(sums).sum(0)
            self._unread = round_, module.global_step, sums
            if sums.device.type == "cpu":
                self.read()
            if shares > 1:  # without padding it is 1
                total = sums[-1] if sums.device.type == "mps" else sums[-1].double()
                self._correction = nominal * shares / total.clamp(min=1.0)
        if shares > 1:
            self.weight = tokens.to(parts.loss.dtype) / nominal

    def read(self, *_) -> None:
        """Guard the loss of the step before: to read it at once would wait for the device.

        Raises DivergenceError, in all processes or in none.
        """
        if self._unread is not None:
            (round_, step, sums), self._unread = self._unread, None
            self.guard.check(round_, step, *sums.tolist())

    # Before the next step, and when the run is over; the model reads before a file is written.
    on_train_batch_start = on_train_end = read

    def on_after_backward(self, trainer, module):
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        if self._correction is not None and grads:
            torch._foreach_mul_(grads, self._correction)
        self._correction = None
