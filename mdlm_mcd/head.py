"""Compute Eq. 14 at large vocabularies by projecting only the rows it reads.

The loss needs the student's logits where z_t is masked and the teacher's where z_s
is. The backbone runs to its last hidden state, and its output projection is applied to
the gathered rows alone, a chunk at a time. The gradient of a chunk is taken right after
its logits, so none are stored or computed twice, and memory in both directions is
(chunk, vocab). `losses.per_token` is the definition; this agrees with it to rounding.

Works on any backbone whose projection is an `nn.Linear` at `output_layer.linear`
(MDLM's, Duo's, ours, the released `mdlm-owt`); of others the full logits are computed
and their rows gathered.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import losses

log = logging.getLogger(__name__)

FSDP_INNER = "_fsdp_wrapped_module"  # the name under which FSDP keeps what it wraps


def is_sharded(module: nn.Module) -> bool:
    """Return whether FSDP wraps the module itself, not just a part of it."""
    return FSDP_INNER in module._modules


def output_projection(backbone: nn.Module) -> nn.Linear | None:
    """Return the backbone's last `nn.Linear`, or None where it has none to use.

    Its weights must be whole outside of its own forward. Those of a sharded model are,
    within the model's forward; those of a part that is sharded by itself are gathered
    for that part's forward alone. FSDP2's are DTensors.
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
    _log_full_logits(type(backbone).__name__)
    return None


@functools.cache
def _log_full_logits(kind: str) -> None:
    """Log, once for each class of backbone, that its logits are not gathered."""
    log.info(
        "%s has no nn.Linear at output_layer.linear, or its weights are sharded: "
        "its full logits are computed and stored.",
        kind,
    )


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
        """Return positions `index` of the flattened batch: (rows, dim or vocab)."""
        return self.hidden.flatten(0, 1)[index]

    def logits(self, rows: Tensor) -> Tensor:
        """Return logits of gathered rows, (rows, vocab), in float32 or better."""
        if self.linear is None:
            return losses.widen(rows)
        rows, weight = self.operands(rows, self.linear)
        bias = None if self.linear.bias is None else self.linear.bias.to(weight.dtype)
        # A trainer's autocast may be on around us; only the backbone's own counts.
        with _no_autocast(rows.device.type):
            return losses.widen(F.linear(rows, weight, bias))

    def operands(self, rows: Tensor, linear: nn.Linear) -> tuple[Tensor, Tensor]:
        """Return rows and matrix in the precision the backbone multiplies them in."""
        # Without autocast a hidden state may be wider than the weights.
        dtype = self.autocast or linear.weight.dtype
        return rows.to(dtype), linear.weight.to(dtype)


def _no_autocast(device: str) -> contextlib.AbstractContextManager:
    if device not in ("cpu", "cuda"):  # others may not know autocast at all
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)


def _autocast_dtype(device: str) -> torch.dtype | None:
    """Return the autocast dtype in force on a kind of device, None without autocast."""
    if hasattr(torch, "get_autocast_dtype"):  # torch >= 2.4
        on = torch.is_autocast_enabled(device)
        return torch.get_autocast_dtype(device) if on else None
    if device == "cuda":
        on = torch.is_autocast_enabled()
        return torch.get_autocast_gpu_dtype() if on else None
    on = device == "cpu" and torch.is_autocast_cpu_enabled()
    return torch.get_autocast_cpu_dtype() if on else None


@contextlib.contextmanager
def _without(linear: nn.Linear, seen: list[torch.dtype | None]) -> Iterator[None]:
    """Make `linear` return its input, and append the autocast in force to `seen`."""

    def forward(x: Tensor) -> Tensor:
        seen.append(_autocast_dtype(x.device.type))
        return x

    linear.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del linear.forward


def encode(backbone: nn.Module, run: Callable[[nn.Module], Tensor]) -> HiddenStates:
    """Run `run(backbone)` up to the output projection.

    run: the host's way of calling its backbone (conditioning, autocast); returns
    logits, or an object with `.logits`.
    """
    linear = output_projection(backbone)
    seen: list[torch.dtype | None] = []
    with contextlib.nullcontext() if linear is None else _without(linear, seen):
        out = run(backbone)
    autocast = None if linear is None else seen[0]
    return HiddenStates(getattr(out, "logits", out), linear, autocast)


class LossOutput(NamedTuple):
    """The loss of one batch and its parts; all but `loss` are detached.

    loss: scalar, the weighted sum over tokens. per_token: (batch, length), without
    the weights, zero where nothing is learnt. distil, reveal: sums of it over the
    rows of each regime (`mcd/kl` and `mcd/ce`). entropy: the student's predictive
    entropy in nats, summed over both. distil_rows, reveal_rows: counts.
    """

    loss: Tensor
    per_token: Tensor
    distil: Tensor
    reveal: Tensor
    entropy: Tensor
    distil_rows: int
    reveal_rows: int


class _ChunkedLoss(torch.autograd.Function):
    """Sum w_i loss_i over rows, with its gradient, chunk by chunk.

    objective(logits, k) returns the losses and entropies of chunk k. Only the two
    products around the projection are differentiated by hand.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        matrix: Tensor | None,
        bias: Tensor | None,
        weight: Tensor,
        features: HiddenStates,
        sizes: list[int],
        objective: Callable[[Tensor, int], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor, Tensor]:
        inputs = (rows, matrix, bias)
        # Chunks are summed in float32 or better, also for weights in bfloat16.
        grads = [
            torch.zeros_like(x, dtype=losses.widen(x[:0]).dtype)
            if x is not None and needed
            else None
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
            part, w_matrix = features.operands(part, features.linear)
            slope = slope.to(part.dtype)
            with _no_autocast(rows.device.type):
                if grads[0] is not None:
                    grads[0][at] = slope @ w_matrix
                if grads[1] is not None and grads[1].dtype == slope.dtype:
                    grads[1].addmm_(slope.T, part)
                elif grads[1] is not None:  # half precision: sum in float32
                    grads[1] += slope.T @ part
                if grads[2] is not None:
                    grads[2] += slope.sum(0)
        ctx.grads = grads
        loss = torch.cat(out) if out else weight.new_zeros(0)
        ctx.mark_non_differentiable(loss, entropy)
        return (loss * weight).sum(), loss, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if ctx.grads is None:
            raise RuntimeError(
                "The gathered loss was differentiated already: it keeps no graph for a second time."
            )
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
    x0: Tensor,
    masked_t: Tensor,
    masked_s: Tensor,
    *,
    tau: float,
    mask_index: int,
    weight: Tensor | None = None,
    chunk: int = 1024,
) -> LossOutput:
    """Compute Eq. 14 on gathered rows; equals `losses.per_token` on full logits.

    kind: of `losses.LOSSES`. teacher: None only for losses that read none. x0, masked_t,
    masked_s: (batch, length); clear positions to leave out (padding) in `masked_t`.
    weight: (batch, length) factors of the tokens in the sum `loss`; 1 if None. chunk:
    rows projected at a time. `loss` can be differentiated once; a second time raises
    RuntimeError. Raises ConfigError for an unknown kind.
    """
    terms = losses.get(kind)
    both, revealed = map(_places, (masked_t & masked_s, masked_t & ~masked_s))
    if terms.reveal is None:
        revealed = revealed[:0]

    def objective(logits: Tensor, index: Tensor, of_revealed: bool) -> tuple[Tensor, Tensor]:
        term = terms.reveal if of_revealed and terms.reveal else terms.distil
        target = x0.flatten()[index]
        student_logp, teacher_logp = losses.subs_masked(logits, mask_index), None
        if term is not losses.cross_entropy:
            with torch.no_grad():
                if of_revealed:
                    teacher_logp = losses.subs_visible(target, logits.shape[-1], logits.dtype)
                else:
                    assert teacher is not None
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
    """Compute a divergence from the teacher at every token, for models without a mask.

    Both predictions are plain softmaxes over the vocabulary, without SUBS; the teacher
    is tempered by tau. kind: a loss whose `distil` term needs no clean token, such as
    `kl_bwd` or `kl_fwd`. rows: (batch, length) bool, the tokens that count. The rest is
    as in `supervise`; `reveal` stays empty.
    """
    term, index = losses.get(kind).distil, _places(rows)

    def objective(logits: Tensor, index: Tensor, _: bool) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            seen = losses.temper(teacher.logits(teacher.rows(index)), tau)
            teacher_logp = losses.widen(seen).log_softmax(-1)
        student_logp = logits.log_softmax(-1)
        return term(student_logp, teacher_logp, None), student_logp

    return _sum_rows(student, rows.shape, index, index[:0], objective, weight, chunk)


def _places(rows: Tensor) -> Tensor:
    """Return the indices of the true ones in the flattened batch."""
    return rows.flatten().nonzero().squeeze(-1)


def _sum_rows(
    student: HiddenStates,
    shape: torch.Size,
    distil: Tensor,
    reveal: Tensor,
    objective: Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor]],
    weight: Tensor | None,
    chunk: int,
) -> LossOutput:
    """Sum `objective` over the positions `distil` and `reveal`, a chunk at a time.

    objective(logits, index, of_revealed) returns the loss of each row of a chunk and
    the student's log-probabilities.
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
    sums = [part.sum() for part in rows.split((len(distil), len(reveal)))]
    return LossOutput(total, per_token, sums[0], sums[1], entropy, len(distil), len(reveal))
