"""Stops a run whose loss has left its scale, and says why."""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

from ..curriculum import Round
from ..errors import ConfigError, DivergenceError

log = logging.getLogger(__name__)

MODES = ("stop", "warn", "off")

# Knowing nothing costs log(vocab) nats a token, so a loss of many times that is
# not a bad student but a broken target.
TIMES_IGNORANCE = 10.0
# A run that starts well can break later: hence a second bound, on the loss against
# its own past.
TIMES_RUNNING = 20.0
DECAY = 0.98


class StepSums(NamedTuple):
    """One optimizer step, summed over its micro-batches and all processes."""

    distil: float  # nats where neither view shows the token
    reveal: float  # nats where only the teacher's does
    distil_rows: float
    reveal_rows: float
    tokens: float  # the host's count, masked or not


class LossGuard:
    """Watches whole optimizer steps.

    A step, not a micro-batch: with stratified times the last micro-batch has the
    smallest t, hardly a masked token, and almost only cross-entropy in its loss.

    mode: `stop` raises DivergenceError, `warn` logs once, `off` looks away.
    `running` is the loss's scale, nats per token; it belongs into the checkpoint.
    """

    def __init__(self, mode: str | bool, kind: str, vocab_size: int):
        mode = "off" if mode is False else mode  # YAML 1.1 reads a bare `off` so
        if mode not in MODES:
            raise ConfigError(
                f"algo.guard={mode} is unknown: choose one of {', '.join(MODES)}."
            )
        self.mode, self.kind = mode, kind
        self.ceiling = TIMES_IGNORANCE * math.log(vocab_size)
        self.running: float | None = None
        self.warned = False

    def check(self, stage: Round, step: int, sums: StepSums) -> None:
        rows = sums.distil_rows + sums.reveal_rows
        if self.mode == "off" or rows == 0:
            return
        total = sums.distil + sums.reveal
        learnt, token = total / rows, total / sums.tokens
        # The floor keeps a loss that has all but vanished from tripping the bound.
        past = token if self.running is None else self.running
        bound = max(TIMES_RUNNING * past, 1.0)
        if math.isfinite(total) and learnt <= self.ceiling and token <= bound:
            self.running = DECAY * past + (1 - DECAY) * token
            return
        if math.isfinite(total) and learnt <= self.ceiling:
            found = f"{token:.4g} nats per token", f"{bound:.4g}, 20 times its mean,"
        else:
            found = f"{learnt:.4g} nats per token learnt", f"{self.ceiling:.4g}"
        message = self._message(stage, step, sums, *found)
        if self.mode == "stop":
            raise DivergenceError(message)
        if not self.warned:
            self.warned = True
            log.warning(message)

    def _message(self, stage, step, sums: StepSums, value: str, bound: str) -> str:
        rows = sums.distil_rows + sums.reveal_rows
        total = sums.distil + sums.reveal
        said = (
            f"algo.loss={self.kind} is {value} at step {step} (round "
            f"{stage.index + 1}, delta={stage.delta:g}, tau={stage.tau:g}), where at "
            f"most {bound} was to be expected"
        )
        if sums.reveal_rows:  # never where nothing is masked
            said += (
                f"; the teacher sees {sums.reveal_rows:.0f} of the {rows:.0f} masked "
                f"rows ({sums.reveal_rows / rows:.2%}), which "
            )
            if math.isfinite(total):
                said += f"bring {sums.reveal / total:.2%} of the loss"
            else:
                said += f"add {sums.reveal:.4g} nats, and the others {sums.distil:.4g}"
        if self.kind == "kl_bwd" and sums.reveal_rows:
            return said + (
                ". There SUBS makes the teacher one-hot, and reverse KL against a "
                "one-hot costs about 1e6 per token: use algo.loss=hybrid, which takes "
                "the cross-entropy on these rows, or algo.guard=off to watch it fail."
            )
        return said + (
            ": lower optim.lr or check the data, or set algo.guard=warn to go on."
        )
