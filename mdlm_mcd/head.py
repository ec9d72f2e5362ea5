"""Compute Eq. 14 at large vocabularies by projecting only the rows it reads.

The backbone runs to its last hidden state, and its output projection is applied to the
gathered rows alone, a chunk at a time. The gradient of a chunk is taken right after its
logits, so none are stored or computed twice, and memory in both directions is (chunk,
vocab). `losses.per_token` is the definition; this agrees with it to rounding.

Works on any backbone whose projection is an `nn.Linear` at `output_layer.linear` (MDLM's, Duo's,
ours, the released `mdlm-owt`); of others the full logits are computed and their rows gathered.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import losses
from .errors import require

log = logging.getLogger(__name__)


def is_sharded(module: nn.Module) -> bool:
    """Return whether FSDP wraps the module itself, not just a part of it."""
    return "_fsdp_wrapped_module" in module._modules


def output_projection(backbone: nn.Module) -> nn.Linear | None:
    """Return the backbone's last `nn.Linear`, or None where it has none to use.

    Its weights must be whole outside of its own forward, which those of a part that is sharded
    by itself are not; FSDP2's are DTensors.
    """
    for module in (backbone, getattr(backbone, "backbone", None)):
        layer = getattr(module, "output_layer", None)
        linear = getattr(layer, "linear", None)
        # Exactly nn.Linear: a subclass (quantised, sharded) may not be x W^T + b.
        if module is None or layer is None or type(linear) is not nn.Linear:
            continue
        whole = linear.weight.shape == (linear.out_features, linear.in_features)
        plain = type(linear.weight) in (nn.Parameter, Tensor)
        if whole and plain and not is_sharded(module) and not is_sharded(layer):
            return linear
    why = "has no nn.Linear at output_layer.linear, or its weights are sharded"
    _log_full_logits(type(backbone).__name__, why)
    return None


@functools.cache
def _log_full_logits(kind: str, why: str) -> None:
    """Log, once for each class of backbone, that its logits are not gathered."""
    log.info("%s %s: its full logits are computed and stored.", kind, why)


@dataclass
class HiddenStates:
    """The last hidden states of a batch, and the projection still to be applied.

    hidden: (batch, length, dim); without a `linear` the logits themselves, (batch,
    length, vocab). autocast: the dtype the projection would have run under, if any.
    """

    hidden: Tensor
    linear: nn.Linear | None = None
    autocast: torch.dtype | None = None

    def rows(self, index: Tensor) -> Tensor:
        """Return rows of the flattened batch by index or mask: (rows, dim or vocab)."""
        return self.hidden.flatten(0, 1)[index]

    @functools.cached_property
    def matrix(self) -> Tensor:
        """The projection's weights in the precision the backbone multiplies in, cast once.

        (vocab, dim), with rows of zeros up to a size that the device multiplies fast.
        """
        assert self.linear is not None
        # Without autocast a hidden state may be wider than the weights.
        weight = self.linear.weight.detach().to(self.autocast or self.linear.weight.dtype)
        return F.pad(weight, (0, 0, 0, -len(weight) % _multiple(weight.device)))

    def logits(self, rows: Tensor) -> Tensor:
        """Return logits of gathered rows, (rows, vocab), in float32 or better."""
        if self.linear is None:
            return losses.widen(rows)
        bias: Tensor | None = self.linear.bias
        dtype = self.matrix.dtype
        if bias is not None:
            bias = F.pad(bias.to(dtype), (0, len(self.matrix) - len(bias)))
        # A trainer's autocast may be on around us; only the backbone's own counts.
        with no_autocast(rows.device.type):
            out = F.linear(rows.to(dtype), self.matrix, bias)
        return losses.widen(out[:, : self.linear.out_features])


def _multiple(device: torch.device) -> int:
    """Return what a vocabulary is padded to a multiple of."""
    # MDLM's 50,258 is no multiple of 8, and cuBLAS then takes kernels of older devices.
    return 128 if device.type == "cuda" else 1


def no_autocast(device: str) -> contextlib.AbstractContextManager:
    """Return a context in which a kind of device computes in the dtypes that it is given."""
    known = device in ("cpu", "cuda")  # others may not know autocast at all
    return torch.autocast(device, enabled=False) if known else contextlib.nullcontext()


def _autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the dtype that autocast multiplies in on a device now, None for float32."""
    one = torch.ones(1, 1, dtype=torch.float32, device=device)
    dtype = (one @ one).dtype  # before torch 2.4 each kind of device is asked in its own way
    return None if dtype == torch.float32 else dtype


# Projections whose output their backbones change.
_NOT_LAST: weakref.WeakSet[nn.Linear] = weakref.WeakSet()


def encode(backbone: nn.Module, run: Callable[[nn.Module], Tensor]) -> HiddenStates:
    """Run `run(backbone)` up to the output projection.

    run: the host's way of calling it; returns logits, or an object with `.logits`.
    """
    linear = output_projection(backbone)
    seen: list[tuple[Tensor, torch.dtype | None]] = []

    def forward(x: Tensor) -> Tensor:
        seen.append((x, _autocast_dtype(x.device)))
        return x

    def logits() -> Tensor:
        out = run(backbone)
        return getattr(out, "logits", out)

    if linear is None or linear in _NOT_LAST:
        return HiddenStates(logits())
    linear.forward = forward  # type: ignore[method-assign, assignment]
    try:
        hidden = logits()
    finally:
        del linear.forward
    if not seen or hidden is not seen[0][0]:
        # A softcap, a slice, a cast: what was done to the hidden states is for logits.
        _log_full_logits(type(backbone).__name__, "changes what output_layer.linear returns")
        _NOT_LAST.add(linear)
        return encode(backbone, run)
    return HiddenStates(hidden, linear, seen[0][1])


class LossOutput(NamedTuple):
    """The loss of one batch and its parts; all but `loss` are detached.

    loss: scalar, the weighted sum over tokens. per_token: in the weights' shape, but without
    them, zero where nothing is learnt. distil, reveal: sums of it over the rows of each regime
    (`mcd/kl` and `mcd/ce`). entropy: the student's predictive entropy in nats, summed over
    both. distil_rows, reveal_rows: counts.
    """

    loss: Tensor
    per_token: Tensor
    distil: Tensor
    reveal: Tensor
    entropy: Tensor
    distil_rows: int
    reveal_rows: int


def row_terms(
    term: losses.Term,
    logits: Tensor,
    teacher: Tensor | None,
    target: Tensor | None,
    tau: Tensor | float,
    mask_index: int | None,
) -> tuple[Tensor, Tensor]:
    """Compute a loss and the student's predictive entropy of gathered rows, each (rows,).

    term: of `losses`. logits, teacher: (rows, vocab), the teacher's before its temperature
    tau; None where it sees the token, and SUBS makes it one-hot at `target` (rows,).
    mask_index: None for models without a mask, whose predictions are plain softmaxes.
    """
    student_logp, teacher_logp = _log_probabilities(logits, mask_index), None
    with torch.no_grad():
        if teacher is not None:
            teacher_logp = _log_probabilities(losses.widen(teacher) / tau, mask_index)
        elif term is not losses.cross_entropy:
            assert target is not None
            teacher_logp = losses.subs_visible(target, logits.shape[-1], logits.dtype)
    loss = term(student_logp, teacher_logp, target)
    with torch.no_grad():
        entropy = -(student_logp.exp() * student_logp).sum(-1)
    return loss, entropy


def _log_probabilities(logits: Tensor, mask_index: int | None) -> Tensor:
    if mask_index is None:
        return losses.widen(logits).log_softmax(-1)
    return losses.subs_masked(logits, mask_index)


@functools.cache
def compiled_row_terms() -> Callable[..., tuple[Tensor, Tensor]]:
    """Return `row_terms`, fused by `torch.compile`: a third of its passes over the vocabulary.

    Sizes and tau are dynamic: rounds, last chunks and vocabularies share one compilation.
    """
    compiled = torch.compile(row_terms, dynamic=True)

    def run(
        term: losses.Term, logits: Tensor, teacher: Any, target: Any, tau: float, mask_index: Any
    ) -> tuple[Tensor, Tensor]:
        # A number would be compiled in, and compiled again with each round.
        number = torch.tensor(tau, dtype=logits.dtype)
        return compiled(term, logits, teacher, target, number, mask_index)

    return run


class _ChunkedLoss(torch.autograd.Function):
    """Sum w_i loss_i over rows, with its gradient, chunk by chunk.

    chunks: slices of the rows, each with whether it is revealed. terms(logits, at, revealed)
    returns the losses and entropies of one, each (rows,).
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        matrix: Tensor | None,
        bias: Tensor | None,
        weight: Tensor,
        student: HiddenStates,
        chunks: list[tuple[slice, bool]],
        terms: Callable[[Tensor, slice, bool], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor, Tensor]:
        inputs = (rows, matrix, bias)
        wide = losses.widen(rows[:0]).dtype
        # Chunks are summed in float32 or better, also for weights in bfloat16.
        grads = [
            torch.zeros_like(x, dtype=losses.widen(x[:0]).dtype)
            if x is not None and needed
            else None
            for x, needed in zip(inputs, ctx.needs_input_grad[:3], strict=True)
        ]
        ctx.dtypes = [None if x is None else x.dtype for x in inputs]
        losses_, entropy = rows.new_zeros(weight.shape, dtype=wide), rows.new_zeros((), dtype=wide)
        for at, revealed in chunks:
            logits = student.logits(rows[at]).detach().requires_grad_()
            with torch.enable_grad():
                loss, row_entropy = terms(logits, at, revealed)
                (slope,) = torch.autograd.grad((loss * weight[at]).sum(), logits)
            losses_[at] = loss.detach()
            entropy += row_entropy.sum()
            if student.linear is None:
                if grads[0] is not None:
                    grads[0][at] = slope
                continue
            vocab = slope.shape[-1]
            slope = F.pad(slope.to(student.matrix.dtype), (0, len(student.matrix) - vocab))
            with no_autocast(rows.device.type):
                if grads[0] is not None:
                    grads[0][at] = slope @ student.matrix
                if grads[1] is not None:
                    part = rows[at].to(slope.dtype)
                    if grads[1].dtype == slope.dtype and vocab == slope.shape[-1]:
                        grads[1].addmm_(slope.T, part)
                    else:  # half precision: sum in float32
                        grads[1] += (slope.T @ part)[:vocab]
                if grads[2] is not None:
                    grads[2] += slope.sum(0)[:vocab]
        ctx.grads = grads
        ctx.mark_non_differentiable(losses_, entropy)
        return (losses_ * weight).sum(), losses_, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if ctx.grads is None:
            raise RuntimeError("The gathered loss was differentiated already: it keeps no graph.")
        # Scaled in place: the matrix's gradient is as large as the vocabulary.
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
    x0: Tensor | None,
    masked_t: Tensor,
    masked_s: Tensor,
    *,
    tau: float,
    mask_index: int | None,
    weight: Tensor | None = None,
    chunk: int | None = None,
    compile: bool = False,
) -> LossOutput:
    """Compute Eq. 14 on gathered rows; equals `losses.per_token` on full logits.

    kind: of `losses.LOSSES`. teacher: None only for losses that read none. x0, masked_t,
    masked_s: (batch, length); clear positions to leave out (padding) in `masked_t`.
    mask_index: None for models without a mask: both predictions are then plain softmaxes,
    without SUBS, and with masked_t = masked_s, the tokens that count, x0 may be None.
    weight: (batch, length) factors of the tokens in the sum `loss`; 1 if None. For `ce` it and
    x0 may be (batch, length, draws): several tokens at a place, learnt from one prediction.
    chunk: rows projected at a time; None: `default_chunk`. compile: fuse what lies between the
    projection and the loss, by `torch.compile`. `loss` can be differentiated once; a second time
    raises RuntimeError. Raises ConfigError for an unknown kind or a chunk without rows.
    """
    loss = losses.get(kind)
    require(chunk is None or chunk >= 1, "algo.head_chunk", chunk, "at least 1, or null")
    distil = _places(masked_t & masked_s)
    # On a GPU each search waits for what it has computed so far.
    one = loss.reveal is None or mask_index is None
    reveal = distil[:0] if one else _places(masked_t & ~masked_s)
    index, linear = torch.cat((distil, reveal)), student.linear
    chunk = default_chunk(student) if chunk is None else chunk
    # A chunk is of one regime.
    chunks = [
        (slice(at, min(at + chunk, stop)), revealed)
        for start, stop, revealed in ((0, len(distil), False), (len(distil), len(index), True))
        for at in range(start, stop, chunk)
    ]
    run = compiled_row_terms() if compile else row_terms

    def terms(logits: Tensor, at: slice, revealed: bool) -> tuple[Tensor, Tensor]:
        places = index[at]
        term = loss.reveal if revealed and loss.reveal else loss.distil
        seen = None
        if not revealed and term is not losses.cross_entropy:
            assert teacher is not None
            with torch.no_grad():
                seen = teacher.logits(teacher.rows(places))
        target = None if x0 is None else x0.flatten(0, 1)[places]
        return run(term, logits, seen, target, tau, mask_index)

    weight = torch.ones(masked_t.shape, device=index.device) if weight is None else weight
    factors = weight.flatten(0, 1)[index].to(losses.widen(student.hidden[:0]).dtype)
    total, rows, entropy = _ChunkedLoss.apply(
        student.rows(index),
        None if linear is None else linear.weight,
        None if linear is None else linear.bias,
        factors,
        student,
        chunks,
        terms,
    )
    per_token = torch.zeros(weight.shape, dtype=rows.dtype, device=index.device)
    per_token.flatten(0, 1)[index] = rows
    counts = len(distil), len(reveal)
    sums = [part.sum() for part in rows.split(counts)]
    return LossOutput(total, per_token, sums[0], sums[1], entropy, *counts)


def default_chunk(student: HiddenStates) -> int:
    """Return the number of rows to project at a time, by device and vocabulary."""
    if student.hidden.is_cuda:
        return 4096
    # Where 1,024 rows of float32 logits outgrow a CPU's caches.
    wide = student.linear is not None and student.linear.out_features >= 8192
    return 128 if wide else 1024


def _places(rows: Tensor) -> Tensor:
    """Return the indices of the true ones in the flattened batch."""
    return rows.flatten().nonzero().squeeze(-1)
