"""The hybrid consistency objective, Eq. 14, and the losses it is compared with.

Every loss takes log-probabilities *after* SUBS: no mass on the mask token, and one-hot on tokens
that the model sees. "One-hot" in log space is 0 at the token and NEG_INFINITY = -1e6, the hosts'
finite stand-in for -inf, elsewhere. So the reverse KL costs about 1e6 per token against a teacher
that sees the token, and `kl_bwd` diverges (Table 2's "FAILED").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import require_one_of

NEG_INFINITY = -1_000_000.0
SOFT = 2.0  # CD4LM's temperature, of teacher and student


def widen(x: Tensor) -> Tensor:
    """Cast half precision to float32, in which losses are computed; keep wider dtypes."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def temper(logits: Tensor, tau: float) -> Tensor:
    """Divide logits by tau: p(. | z_s; tau) of Eq. 14. For the teacher alone, before SUBS."""
    return logits if tau == 1.0 else widen(logits) / tau


def subs_masked(logits: Tensor, mask_index: int) -> Tensor:
    """Apply SUBS at masked tokens: log-probabilities without mass on the mask token.

    logits: (..., vocab) in any dtype -> the same shape in float32 or wider.
    """
    logits = widen(logits)
    # Writing a number to one place of a tensor would wait for the GPU.
    masks = torch.arange(logits.shape[-1], device=logits.device) == mask_index
    return logits.masked_fill(masks, NEG_INFINITY).log_softmax(-1)


def subs_visible(x0: Tensor, vocab_size: int, dtype: torch.dtype) -> Tensor:
    """Apply SUBS at visible tokens: the log of the one-hot of x0, (...) -> (..., vocab)."""
    one_hot = torch.full((*x0.shape, vocab_size), NEG_INFINITY, dtype=dtype, device=x0.device)
    return one_hot.scatter_(-1, x0[..., None], 0.0)


def subs(logits: Tensor, z: Tensor, mask_index: int) -> Tensor:
    """Apply SUBS to a whole view z: logits (batch, length, vocab) -> log_x_theta."""
    log_p = subs_masked(logits, mask_index)
    one_hot = subs_visible(z, logits.shape[-1], log_p.dtype)
    return torch.where((z == mask_index)[..., None], log_p, one_hot)


# Terms: (student_logp, teacher_logp, x0) -> one number per row -------------------

Term = Callable[..., Tensor]


def reverse_kl(student_logp: Tensor, teacher_logp: Tensor, x0: Tensor) -> Tensor:
    """Return KL(student || teacher), mode-seeking: Eq. 14's D_KL, read literally."""
    return (student_logp.exp() * (student_logp - teacher_logp)).sum(-1)


def forward_kl(student_logp: Tensor, teacher_logp: Tensor, x0: Tensor) -> Tensor:
    """Return KL(teacher || student), mass-covering."""
    return (teacher_logp.exp() * (teacher_logp - student_logp)).sum(-1)


def soft_kl(student_logp: Tensor, teacher_logp: Tensor, x0: Tensor) -> Tensor:
    """Return T^2 KL(teacher || student), both at temperature T = `SOFT`: CD4LM's term."""
    student, teacher = ((logp / SOFT).log_softmax(-1) for logp in (student_logp, teacher_logp))
    return SOFT**2 * forward_kl(student, teacher, x0)


def total_variation(student_logp: Tensor, teacher_logp: Tensor, x0: Tensor) -> Tensor:
    """Return half the L1 distance of the two distributions, between 0 and 1."""
    return (student_logp.exp() - teacher_logp.exp()).abs().sum(-1) / 2


def squared_error(student_logp: Tensor, teacher_logp: Tensor, x0: Tensor) -> Tensor:
    """Return the mean squared difference of log-probabilities over the tokens both allow.

    The mask is left out: its -1e6 cancels only up to rounding.
    """
    both = (student_logp > NEG_INFINITY / 2) & (teacher_logp > NEG_INFINITY / 2)
    apart = torch.where(both, student_logp - teacher_logp, 0.0)
    return apart.square().sum(-1) / both.sum(-1)


def cross_entropy(student_logp: Tensor, teacher_logp: Tensor | None, x0: Tensor) -> Tensor:
    """Return -log p_student(x0): Eq. 14's L_CE; x0 (...), or (..., draws) tokens a place."""
    if x0.ndim == student_logp.ndim:
        return -student_logp.gather(-1, x0)
    return -student_logp.gather(-1, x0[..., None]).squeeze(-1)


class Loss(NamedTuple):
    """The terms of a loss, by which of the two views shows the token.

    distil: where neither does (m_s = 1).
    reveal: where only the teacher's does (m_t - m_s = 1); None: no loss.
    """

    distil: Term
    reveal: Term | None

    @property
    def needs_teacher(self) -> bool:
        return self.distil is not cross_entropy


LOSSES: dict[str, Loss] = {
    "hybrid": Loss(distil=reverse_kl, reveal=cross_entropy),  # Eq. 14
    "hybrid_fwd": Loss(distil=forward_kl, reveal=cross_entropy),
    "kl_fwd": Loss(distil=forward_kl, reveal=forward_kl),  # Table 2
    "kl_bwd": Loss(distil=reverse_kl, reveal=reverse_kl),  # Table 2, "FAILED"
    "ce": Loss(distil=cross_entropy, reveal=cross_entropy),
    "hybrid_no_ce": Loss(distil=reverse_kl, reveal=None),  # Eq. 14's first half
    "kl_soft": Loss(distil=soft_kl, reveal=soft_kl),
    # SDTT's other two. Against a one-hot, squared logs diverge as `kl_bwd` does.
    "tvd": Loss(distil=total_variation, reveal=total_variation),
    "mse": Loss(distil=squared_error, reveal=cross_entropy),
}


def get(kind: str) -> Loss:
    """Return the loss of that name. Raises ConfigError, which lists the valid ones."""
    require_one_of(LOSSES, "algo.loss", kind)
    return LOSSES[kind]


def per_token(
    kind: str,
    student_logp: Tensor,
    teacher_logp: Tensor,
    x0: Tensor,
    masked_t: Tensor,
    masked_s: Tensor,
) -> Tensor:
    """Return Eq. 14's summand, or that of an ablation: (batch, length), unreduced.

    student_logp, teacher_logp: (batch, length, vocab) after SUBS, of z_t and z_s, the teacher's
    with its temperature applied; x0: (batch, length) ids; masked_t, masked_s: (batch, length) bool.
    Zero where the student sees the token, whatever the teacher sees: there is nothing to learn.
    `head` computes the same without the (batch, length, vocab) tensors; this is the definition.

    Raises ConfigError for an unknown kind.
    """
    loss = get(kind)
    student_logp, teacher_logp = widen(student_logp), widen(teacher_logp)
    both = masked_t & masked_s
    revealed = masked_t & ~masked_s
    out = torch.zeros_like(student_logp[..., 0])
    for rows, term in ((both, loss.distil), (revealed, loss.reveal)):
        if term is None:
            continue
        # Index first: 0 * inf gradients of rows that do not count never arise.
        out = out.masked_scatter(rows, term(student_logp[rows], teacher_logp[rows], x0[rows]))
    return out
