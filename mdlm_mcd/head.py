"""Eq. 14 at large vocabularies: project only the rows that the loss reads.

The loss needs the student's logits where z_t is masked and the teacher's where
z_s is. The backbone therefore runs to its last hidden state, and its output
projection is applied to the gathered rows alone, a chunk at a time. The gradient
of a chunk is taken while its logits are at hand, so nothing is kept or computed
twice, and neither direction ever holds more than (chunk, vocab) numbers.
`losses.per_token` is the definition; this agrees with it to rounding.

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
from torch.autograd.function import once_differentiable

from . import losses

log = logging.getLogger(__name__)

_said: set[type] = set()

FSDP_INNER = "_fsdp_wrapped_module"  # the name under which FSDP keeps what it wraps


def is_sharded(module: nn.Module) -> bool:
    """Return whether the module itself, not just a part of it, is one of FSDP's."""
    return FSDP_INNER in module._modules


def output_projection(backbone: nn.Module) -> nn.Linear | None:
    """The backbone's last `nn.Linear`, or None (said once a class)."""
    for module in (backbone, getattr(backbone, "backbone", None)):
        linear = getattr(getattr(module, "output_layer", None), "linear", None)
        # Exactly nn.Linear: a subclass (quantised, sharded) may not be x W^T + b.
        if type(linear) is nn.Linear and _at_hand(linear, module):
            return linear
    if type(backbone) not in _said:
        _said.add(type(backbone))
        log.info(
            "%s has no nn.Linear at output_layer.linear, or its weights are sharded: "
            "its full logits are computed and held.",
            type(backbone).__name__,
        )
    return None


def _at_hand(linear: nn.Linear, owner: nn.Module) -> bool:
    """Whether the weights are whole outside of `linear`'s own forward.

    Those of a sharded model are, within it; those of a part that is sharded by itself
    are gathered for its forward alone. FSDP2's are DTensors.
    """
    whole = linear.weight.shape == (linear.out_features, linear.in_features)
    apart = is_sharded(owner) or is_sharded(owner.output_layer)
    return whole and not apart and type(linear.weight) in (nn.Parameter, Tensor)


@dataclass
class HiddenStates:
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
        rows, weight = self.operands(rows)
        bias = self.linear.bias
        bias = None if bias is None else bias.to(weight.dtype)
        # A trainer's autocast may be on around us; only the backbone's own counts.
        with _no_autocast(rows.device.type):
            return losses.widen(F.linear(rows, weight, bias))

    def operands(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and matrix in the precision the backbone would multiply them in."""
        weight = self.linear.weight
        # Without autocast a hidden state may be wider than the weights.
        dtype = self.autocast or weight.dtype
        return rows.to(dtype), weight.to(dtype)


def _no_autocast(device: str):
    if device not in ("cpu", "cuda"):  # others may not know autocast at all
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)


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


def encode(backbone: nn.Module, run: Callable[[nn.Module], Tensor]) -> HiddenStates:
    """Run `run(backbone)` up to the output projection.

    `run` is the host's way of calling its backbone (conditioning, autocast); it
    answers logits, or an object with `.logits`.
    """
    linear = output_projection(backbone)
    if linear is None:
        out = run(backbone)
        return HiddenStates(getattr(out, "logits", out))
    seen: list = []
    with _without(linear, seen):
        out = run(backbone)
    return HiddenStates(getattr(out, "logits", out), linear, seen[0])


class LossOutput(NamedTuple):
    """The loss of one batch, and what it is made of (all but `loss` detached).

    loss: scalar, the weighted sum over tokens; per_token: (batch, length), without
    the weights, zero where nothing is learnt; distil and reveal: sums of it over the
    rows of each regime (`mcd/kl` and `mcd/ce`); entropy: sum over both of the
    student's predictive entropy in nats; distil_rows, reveal_rows: counts.
    """

    loss: Tensor
    per_token: Tensor
    distil: Tensor
    reveal: Tensor
    entropy: Tensor
    distil_rows: int
    reveal_rows: int


class _ChunkedLoss(torch.autograd.Function):
    """sum_i w_i loss_i over rows, its gradient taken chunk by chunk on the way.

    objective(logits, k) answers the losses and entropies of chunk k. Only the two
    products around the projection are differentiated by hand.
    """

    @staticmethod
    def forward(ctx, rows, matrix, bias, weight, features, sizes, objective):
        inputs = (rows, matrix, bias)
        # Chunks add up in float32 or better, also for weights kept in bfloat16.
        grads = [
            torch.zeros_like(x, dtype=losses.widen(x[:0]).dtype) if needed else None
            for x, needed in zip(inputs, ctx.needs_input_grad[:3], strict=True)
        ]
        ctx.dtypes = [None if x is None else x.dtype for x in inputs]
        wide = losses.widen(rows[:0]).dtype
        out, entropy = [], torch.zeros((), dtype=wide, device=rows.device)
        chunks = zip(rows.split(sizes), weight.split(sizes), strict=True)
        start = 0
        for k, (part, w) in enumerate(chunks):
            at = slice(start, start := start + len(part))
            logits = features.logits(part).detach().requires_grad_()
            with torch.enable_grad():
                loss, row_entropy = objective(logits, k)
                (slope,) = torch.autograd.grad((loss * w).sum(), logits)
            out.append(loss.detach())
            entropy += row_entropy.sum()
            if features.linear is None:
                if grads[0] is not None:
                    grads[0][at] = slope
                continue
            part, w_matrix = features.operands(part)
            slope = slope.to(part.dtype)
            with _no_autocast(rows.device.type):
                if grads[0] is not None:
                    grads[0][at] = slope @ w_matrix
                if grads[1] is not None and grads[1].dtype == slope.dtype:
                    grads[1].addmm_(slope.T, part)
                elif grads[1] is not None:  # half precision: add up in full
                    grads[1] += slope.T @ part
                if grads[2] is not None:
                    grads[2] += slope.sum(0)
        ctx.grads = grads
        loss = torch.cat(out) if out else weight.new_zeros(0)
        ctx.mark_non_differentiable(loss, entropy)
        return (loss * weight).sum(), loss, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream, *_):
        if ctx.grads is None:
            raise RuntimeError(
                "The gathered loss was differentiated already: it keeps no graph for a second time."
            )
        # Handed on, not copied: the matrix's is as large as the vocabulary.
        grads, ctx.grads = ctx.grads, None
        grads = [
            None if g is None else g.mul_(upstream.to(g.dtype)).to(dtype)
            for g, dtype in zip(grads, ctx.dtypes, strict=True)
        ]
        return *grads, None, None, None, None


def supervise(
    kind: str,
    student: HiddenStates,
    teacher: HiddenStates | None,
    x0: Tensor,
    masked_t: Tensor,
    masked_s: Tensor,
    *,
    tau: float,
    mask_index: int,
    weight: Tensor | None = None,
    chunk: int = 1024,
) -> LossOutput:
    """Eq. 14 on gathered rows; equals `losses.per_token` on full log-probabilities.

    x0, masked_t, masked_s: (batch, length). To leave positions out (padding), clear
    them in `masked_t`. weight: (batch, length) factors of the tokens in the sum
    `loss`; 1 if None. `teacher` may be None for losses that need none. chunk: rows
    projected at a time. `loss` can be differentiated once.
    """
    terms = losses.get(kind)
    both, revealed = map(_places, (masked_t & masked_s, masked_t & ~masked_s))
    if terms.reveal is None:
        revealed = revealed[:0]

    def objective(logits: Tensor, index: Tensor, of_revealed: bool):
        term = terms.reveal if of_revealed else terms.distil
        target = x0.flatten()[index]
        student_logp, teacher_logp = losses.subs_masked(logits, mask_index), None
        if term is not losses.cross_entropy:
            with torch.no_grad():
                if of_revealed:
                    teacher_logp = losses.subs_visible(target, logits.shape[-1], logits.dtype)
                else:
                    seen = losses.temper(teacher.logits(teacher.rows(index)), tau)
                    teacher_logp = losses.subs_masked(seen, mask_index)
        return term(student_logp, teacher_logp, target), student_logp

    return _sum_rows(student, x0.shape, both, revealed, objective, weight, chunk)


def supervise_all(
    kind: str,
    student: HiddenStates,
    teacher: HiddenStates,
    rows: Tensor,
    *,
    tau: float,
    weight: Tensor | None = None,
    chunk: int = 1024,
) -> LossOutput:
    """A divergence from the teacher at every token, for models without a mask.

    Both predictions are plain softmaxes over the vocabulary, without SUBS; the teacher
    is tempered by tau. kind: a loss whose `distil` term needs no clean token, such as
    `kl_bwd` or `kl_fwd`. rows: (batch, length) bool, the tokens that count. The rest is
    as in `supervise`; `reveal` stays empty.
    """
    term, index = losses.get(kind).distil, _places(rows)

    def objective(logits: Tensor, index: Tensor, _):
        with torch.no_grad():
            seen = losses.temper(teacher.logits(teacher.rows(index)), tau)
            teacher_logp = losses.widen(seen).log_softmax(-1)
        student_logp = logits.log_softmax(-1)
        return term(student_logp, teacher_logp, None), student_logp

    return _sum_rows(student, rows.shape, index, index[:0], objective, weight, chunk)


def _places(rows: Tensor) -> Tensor:
    return rows.flatten().nonzero().squeeze(-1)


def _sum_rows(
    student: HiddenStates,
    shape: torch.Size,
    distil: Tensor,
    reveal: Tensor,
    objective: Callable,
    weight: Tensor | None,
    chunk: int,
) -> LossOutput:
    """`objective` summed over the positions `distil` and `reveal`, a chunk at a time.

    objective(logits, index, of_revealed) answers the loss of each row of a chunk and
    the student's log-probabilities, which die there.
    """
    jobs = [
        (part, of_revealed)
        for index, of_revealed in ((distil, False), (reveal, True))
        if len(index)
        for part in index.split(chunk)
    ]

    def of_chunk(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
        loss, student_logp = objective(logits, *jobs[k])
        with torch.no_grad():
            entropy = -(student_logp.exp() * student_logp).sum(-1)
        return loss, entropy

    index = torch.cat((distil, reveal))
    wide = losses.widen(student.hidden[:0]).dtype
    if weight is None:
        factors = torch.ones(len(index), dtype=wide, device=index.device)
    else:
        factors = weight.flatten()[index].to(wide)
    linear = student.linear
    total, rows, entropy = _ChunkedLoss.apply(
        student.rows(index),
        None if linear is None else linear.weight,
        None if linear is None else linear.bias,
        factors,
        student,
        [len(part) for part, _ in jobs],
        of_chunk,
    )
    per_token = torch.zeros(shape, dtype=rows.dtype, device=index.device)
    per_token.view(-1)[index] = rows
    sums = (part.sum() for part in rows.split((len(distil), len(reveal))))
    return LossOutput(total, per_token, *sums, entropy, len(distil), len(reveal))
