"""Stop a run whose loss has left its scale, and name the cause."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

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


RATE = "lower optim.lr"


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

    def check(
        self,
        round_: Round,
        step: int,
        sums: StepSums,
        cause: Callable[[bool], str] = lambda finite: RATE,
    ) -> None:
        """cause(finite) is asked for a remedy when a bound is passed, and only then."""
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
        if self.warned:
            return
        if math.isfinite(total) and learnt <= self.ceiling:
            found = f"{token:.4g} nats per token", f"{bound:.4g}, 20 times its mean,"
        else:
            found = f"{learnt:.4g} nats per token learnt", f"{self.ceiling:.4g}"
        message = self._message(round_, step, sums, cause, *found)
        if self.mode == "stop":
            raise DivergenceError(message)
        self.warned = True
        log.warning(message)

    def _message(self, round_, step, sums: StepSums, cause, value, bound) -> str:
        rows = sums.distil_rows + sums.reveal_rows
        total = sums.distil + sums.reveal
        said = (
            f"algo.loss={self.kind} is {value} at step {step} (round "
            f"{round_.index + 1}, delta={round_.delta:g}, tau={round_.tau:g}), where at "
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
        finite = math.isfinite(total)
        if self.kind == "kl_bwd" and finite and sums.reveal > total / 2:
            return said + (
                ". There SUBS makes the teacher one-hot, and reverse KL against a "
                "one-hot costs about 1e6 per token: use algo.loss=hybrid, which takes "
                "the cross-entropy on these rows, or algo.guard=off to watch it fail."
            )
        return said + f": {cause(finite)}, or set algo.guard=warn to go on."


def cause(module, finite: bool) -> str:
    """Return the remedy for a loss that left its scale, by what the run looks like.

    Reads all of the weights. Ids were checked before the step (`batches.check_ids`).
    """
    precision = str(module.trainer.precision)
    half = next(module.backbone.parameters()).dtype == torch.float16
    # bfloat16 has the range of float32, so it is no cause.
    if half or (not finite and precision.startswith("16")):
        return (
            f"trainer.precision={precision} computes in float16, which ends at 65504: "
            "set trainer.precision=bf16 (or 32)"
        )
    if not _is_finite(module.backbone):
        return "the student's weights are not finite since an earlier step: lower optim.lr"
    if not _is_finite(module.teacher.backbone):
        return (
            f"the teacher's weights are not finite since round "
            f"{module.teacher.round + 1} began: go on from a checkpoint of before it"
        )
    if module.global_step == 0:
        start = "no step was taken yet, so it is the model that the run starts from: "
        if not finite:
            return start + "name another checkpoint in algo.teacher_path"
        return start + "use the data and the tokenizer that it was trained with"
    return RATE


def _is_finite(network: nn.Module) -> bool:
    return all(bool(p.isfinite().all()) for p in network.parameters())
