"""Stop a run whose loss has left its scale."""

from __future__ import annotations

import logging
import math

from ..curriculum import Round
from ..errors import DivergenceError

log = logging.getLogger(__name__)

# Knowing nothing costs log(vocab) nats a token: many times that is a broken target.
TIMES_IGNORANCE = 10.0
# A run that starts well can break later: a second bound, on the loss against its past.
TIMES_RUNNING = 20.0
DECAY = 0.98


class LossGuard:
    """Watch the loss of whole optimizer steps.

    A step, not a micro-batch: one of few rows may have small t alone, and then hardly a
    masked token, and almost only cross-entropy in its loss.

    mode: `stop` raises DivergenceError, `warn` logs once, `off` (or false, as which
    YAML reads it) checks nothing. `running` is the loss's scale, nats per token; it
    belongs into the checkpoint.
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
