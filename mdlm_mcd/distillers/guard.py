"""Stops a run whose loss has left its scale, and says why."""

from __future__ import annotations

import logging
import math

from ..curriculum import Round
from ..errors import ConfigError, DivergenceError
from ..head import Supervision

log = logging.getLogger(__name__)

MODES = ("stop", "warn", "off")

# Knowing nothing costs log(vocab) nats a token, so a loss of many times that is
# not a bad student but a broken target. A run that starts well can break later:
# hence the second bound, against the loss's own past.
TIMES_IGNORANCE = 10.0
TIMES_RUNNING = 20.0
DECAY = 0.98


class LossGuard:
    """Watches the loss per masked token, in nats.

    mode: `stop` raises DivergenceError, `warn` logs once, `off` looks away.
    """

    def __init__(self, mode: str, kind: str, vocab_size: int):
        if mode not in MODES:
            raise ConfigError(
                f"algo.guard={mode} is unknown: choose one of {', '.join(MODES)}."
            )
        self.mode, self.kind = mode, kind
        self.ceiling = TIMES_IGNORANCE * math.log(vocab_size)
        self.running: float | None = None
        self.warned = False

    def check(self, stage: Round, step: int, parts: Supervision) -> None:
        rows = parts.distil_rows + parts.reveal_rows
        if self.mode == "off" or rows == 0:
            return
        total = float(parts.distil + parts.reveal)
        value = total / rows
        bound = self.ceiling
        if self.running is not None:
            # The floor keeps a loss that has all but vanished from tripping it.
            bound = min(bound, max(TIMES_RUNNING * self.running, 1.0))
        if math.isfinite(value) and value <= bound:
            past = value if self.running is None else self.running
            self.running = DECAY * past + (1 - DECAY) * value
            return
        message = self._message(stage, step, parts, value, bound, total)
        if self.mode == "stop":
            raise DivergenceError(message)
        if not self.warned:
            self.warned = True
            log.warning(message)

    def _message(self, stage, step, parts, value, bound, total) -> str:
        rows = parts.distil_rows + parts.reveal_rows
        share = parts.reveal_rows / rows
        said = (
            f"algo.loss={self.kind} is {value:.4g} nats per masked token at step "
            f"{step} (round {stage.index + 1}, delta={stage.delta:g}, "
            f"tau={stage.tau:g}), "
            f"where at most {bound:.4g} was to be expected; {share:.2%} of the {rows} "
            "rows are visible to the teacher"
        )
        if math.isfinite(total) and total:
            said += f" and bring {float(parts.reveal) / total:.2%} of the loss"
        if self.kind == "kl_bwd":
            return said + (
                ". There SUBS makes the teacher one-hot, and reverse KL against a "
                "one-hot costs about 1e6 per token: use algo.loss=hybrid, which takes "
                "the cross-entropy on these rows, or algo.guard=off to watch it fail."
            )
        return said + (
            ": lower optim.lr or check the data, or set algo.guard=warn to go on."
        )
