"""Eq. 14 at large vocabularies: project only the rows that the loss reads.

The loss needs the student's logits where z_t is masked and the teacher's where
z_s is. The backbone therefore runs to its last hidden state, and its output
projection is applied to the gathered rows alone, a chunk at a time; each chunk
is recomputed in the backward pass, so neither direction ever holds more than
(chunk, vocab) numbers. `losses.per_token` is the definition; this agrees with
it to rounding.

Works on any backbone whose projection is an `nn.Linear` at
`output_layer.linear` (MDLM's, Duo's, ours, the released `mdlm-owt`); others run
whole and have rows of their full logits gathered.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from . import losses

log = logging.getLogger(__name__)

_said: set[type] = set()


def output_projection(backbone: nn.Module) -> nn.Linear | None:
    """The backbone's last `nn.Linear`, or None (said once a class)."""
    for module in (backbone, getattr(backbone, "backbone", None)):
        linear = getattr(getattr(module, "output_layer", None), "linear", None)
        # Exactly nn.Linear: a subclass (quantised, sharded) may not be x W^T + b.
        if type(linear) is nn.Linear:
            return linear
    if type(backbone) not in _said:
        _said.add(type(backbone))
        log.info(
            "%s has no nn.Linear at output_layer.linear: its full logits are computed "
            "and held.",
            type(backbone).__name__,
        )
    return None


@dataclass
class Features:
    """What a backbone knows of each position, short of its logits.

    hidden: (batch, length, dim) with `linear` still to be applied, or the logits
    themselves, (batch, length, vocab), when there is none.
    autocast: the autocast dtype the projection would have run under, if any.
    """

    hidden: Tensor
    linear: nn.Linear | None = None
    autocast: torch.dtype | None = None

    def rows(self, index: Tensor) -> Tensor:
        """Positions `index` of the flattened batch: (rows, dim or vocab)."""
        return self.hidden.flatten(0, 1)[index]

    def logits(self, rows: Tensor) -> Tensor:
        """Logits of gathered rows, (rows, vocab), in float32 or better."""
        if self.linear is None:
            return losses.widen(rows)
        with torch.autocast(
            rows.device.type,
            dtype=self.autocast or torch.bfloat16,
            enabled=self.autocast is not None,
        ):
            # Without autocast the hidden state may be wider than the weights.
            if self.autocast is None:
                rows = rows.to(self.linear.weight.dtype)
            return losses.widen(F.linear(rows, self.linear.weight, self.linear.bias))


def _autocast_dtype(device: str) -> torch.dtype | None:
    """The autocast dtype in force on this kind of device, None without autocast."""
    if hasattr(torch, "get_autocast_dtype"):  # torch >= 2.4
        on = torch.is_autocast_enabled(device)
        return torch.get_autocast_dtype(device) if on else None
    if device == "cuda":
        on = torch.is_autocast_enabled()
        return torch.get_autocast_gpu_dtype() if on else None
    on = device == "cpu" and torch.is_autocast_cpu_enabled()
    return torch.get_autocast_cpu_dtype() if on else None


@contextlib.contextmanager
def _without(linear: nn.Linear, seen: list):
    """Let `linear` pass its input through and note the autocast it met."""

    def forward(x: Tensor) -> Tensor:
        seen.append(_autocast_dtype(x.device.type))
        return x

    linear.forward = forward  # on the instance; the class's stays as it is
    try:
        yield
    finally:
        del linear.forward


def encode(backbone: nn.Module, run: Callable[[nn.Module], Tensor]) -> Features:
    """Run `run(backbone)` up to the output projection.

    `run` is the host's way of calling its backbone (conditioning, autocast); it
    answers logits, or an object with `.logits`.
    """
    linear = output_projection(backbone)
    if linear is None:
        out = run(backbone)
        return Features(getattr(out, "logits", out))
    seen: list = []
    with _without(linear, seen):
        out = run(backbone)
    return Features(getattr(out, "logits", out), linear, seen[0])


class Supervision(NamedTuple):
    """The loss of one batch, and what it is made of (all but `loss` detached).

    loss: (batch, length), zero where nothing is learnt; distil and reveal: sums
    over the rows of each regime (`mcd/kl` and `mcd/ce`); entropy: sum over both
    of the student's predictive entropy in nats; distil_rows, reveal_rows: counts.
    """

    loss: Tensor
    distil: Tensor
    reveal: Tensor
    entropy: Tensor
    distil_rows: int
    reveal_rows: int


def _chunk(term, student, teacher, tau, mask_index, s_rows, t_rows, x0):
    """(loss, entropy) of one chunk of rows; everything vocab-sized dies here."""
    student_logp = losses.subs_masked(student.logits(s_rows), mask_index)
    teacher_logp = None
    if t_rows is not None:
        logits = losses.temper(teacher.logits(t_rows), tau)
        teacher_logp = losses.subs_masked(logits, mask_index)
    elif term is not losses.cross_entropy:
        teacher_logp = losses.subs_visible(
            x0, student_logp.shape[-1], student_logp.dtype
        )
    with torch.no_grad():
        entropy = -(student_logp.exp() * student_logp).sum(-1)
    return term(student_logp, teacher_logp, x0), entropy


def supervise(
    kind: str,
    student: Features,
    teacher: Features | None,
    x0: Tensor,
    masked_t: Tensor,
    masked_s: Tensor,
    *,
    tau: float,
    mask_index: int,
    chunk: int = 1024,
) -> Supervision:
    """Eq. 14 on gathered rows; equals `losses.per_token` on full log-probabilities.

    x0, masked_t, masked_s: (batch, length). To leave positions out (padding), clear
    them in `masked_t`. `teacher` may be None for losses that need none. chunk: rows
    projected at a time.
    """
    loss = losses.get(kind)
    out = torch.zeros(
        x0.numel(), dtype=losses.widen(student.hidden[:0]).dtype, device=x0.device
    )
    entropy = out.new_zeros(())
    sums, counts = [], []
    both, revealed = masked_t & masked_s, masked_t & ~masked_s
    for where, term, sees in (
        (both, loss.distil, True),
        (revealed, loss.reveal, False),
    ):
        index = where.flatten().nonzero().squeeze(-1)
        parts = []
        for i in index.split(chunk):
            t_rows = None
            if sees and term is not losses.cross_entropy:
                t_rows = teacher.rows(i)
            # A hidden state is far smaller than its logits: keep the former.
            row_loss, row_entropy = checkpoint(
                _chunk, term, student, teacher, tau, mask_index,
                student.rows(i), t_rows, x0.flatten()[i],
                use_reentrant=False, preserve_rng_state=False,
            )  # fmt: skip
            parts.append(row_loss)
            entropy = entropy + row_entropy.sum()
        rows = torch.cat(parts) if parts else out[:0]
        out = out.index_put((index,), rows)
        sums.append(rows.detach().sum())
        counts.append(index.numel())
    return Supervision(out.view_as(x0), *sums, entropy, *counts)
