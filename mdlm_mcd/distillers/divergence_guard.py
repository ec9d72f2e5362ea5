"""Stop a run whose loss has left its scale."""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

from ..curriculum import Round
from ..errors import ConfigError, DivergenceError

log = logging.getLogger(__name__)

MODES = ("stop", "warn", "off")
# Knowing nothing costs log(vocab) nats a token: many times that is a broken target.
TIMES_IGNORANCE = 10.0
# A run that starts well can break later: a second bound, on the loss against its past.
TIMES_RUNNING = 20.0
DECAY = 0.98


class StepSums(NamedTuple):
    """One optimizer step, summed over its micro-batches and all processes."""

    distil: float  # nats where neither view shows the token
    reveal: float  # nats where only the teacher's does
    distil_rows: float
    reveal_rows: float
    tokens: float  # the host's count, masked or not


def guard_mode(value: str | bool) -> str:
    """Return `algo.guard`, checked. Raises ConfigError."""
    mode = "off" if value is False else value  # YAML 1.1 reads a bare `off` so
    if mode not in MODES:
        raise ConfigError(f"algo.guard={mode} is unknown: choose one of {', '.join(MODES)}.")
    return mode


class LossGuard:
    """Watch the loss of whole optimizer steps.

    A step, not a micro-batch: with stratified times the last micro-batch has the
    smallest t, hardly a masked token, and almost only cross-entropy in its loss.

    mode: `stop` raises DivergenceError, `warn` logs once, `off` checks nothing.
    `running` is the loss's scale, nats per token; it belongs into the checkpoint.
    """

    def __init__(self, mode: str | bool, kind: str, vocab_size: int):
        self.mode, self.kind = guard_mode(mode), kind
        self.ceiling = TIMES_IGNORANCE * math.log(vocab_size)
        self.running: float | None = None
        self.warned = False

    def check(self, round_: Round, step: int, sums: StepSums) -> None:
        rows, total = sums.distil_rows + sums.reveal_rows, sums.distil + sums.reveal
        if self.mode == "off" or rows == 0:
            return
        learnt, token = total / rows, total / sums.tokens
        past = token if self.running is None else self.running
        # The floor keeps a loss that has all but vanished from tripping the bound.
        bound = max(TIMES_RUNNING * past, 1.0)
        if math.isfinite(total) and learnt <= self.ceiling and token <= bound:
            self.running = DECAY * past + (1 - DECAY) * token
            return
        message = (
            f"algo.loss={self.kind} is {learnt:.4g} nats per token learnt (at most "
            f"{self.ceiling:.4g} was to be expected) and {token:.4g} per token (at most "
            f"{bound:.4g}) at step {step} (round {round_.index + 1}, delta={round_.delta:g}, "
            f"tau={round_.tau:g}): "
        )
        if self.kind == "kl_bwd" and sums.reveal > sums.distil:
            message += (
                f"{sums.reveal:.4g} of {total:.4g} nats are on the {sums.reveal_rows:.0f} of "
                f"{rows:.0f} rows that only the teacher sees, where SUBS makes it one-hot "
                "and reverse KL costs about 1e6: use algo.loss=hybrid, or algo.guard=off to "
                "watch it fail."
            )
        else:
            message += (
                "lower optim.lr; in float16 use trainer.precision=bf16; at the first step "
                "look for another algo.teacher_path or tokenizer; or set algo.guard=warn to "
                "go on."
            )
        if self.mode == "stop":
            raise DivergenceError(message)
        if not self.warned:
            self.warned = True
            log.warning(message)
