"""The minimiser of each loss over tables of probabilities, state by state.

A table has parameters of its own for each state z_t, so the minimum of Eq. 14 over
all of them is a minimum at each. With, for a token masked in z_t,

    a = P(masked in z_s, too | z_t),   b = 1 - a = P(the teacher sees it | z_t),
    m = E[p_tau(. | z_s) | both masked],   g = E[log p_tau(. | z_s) | both masked],
    p = the language's own p(x_i | z_t),

the losses are, up to constants, functions of q = p_student(. | z_t) with the minima
below. Masks are independent of tokens, so b-tokens are distributed as p.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from scipy import optimize, special
from torch import Tensor

from mdlm_mcd.losses import NEG_INFINITY

from .tiny import Tiny, independent, shared


class Given(NamedTuple):
    """a (S, length, 1); m, g, p (S, length, vocab); see the module."""

    a: Tensor
    m: Tensor
    g: Tensor
    p: Tensor


def given(world: Tiny, teacher: Tensor, tau: float, views: Tensor) -> Given:
    """Return what the losses see; teacher: a table; views: P(z_s | z_t), (S, S)."""
    both = world.masked.double()
    sharp = world.tempered(teacher, tau)
    logs = torch.where(world.masked[..., None], sharp.log(), 0.0)
    logs = logs.clamp(min=NEG_INFINITY)
    a = (views @ both)[..., None]
    m = torch.einsum("zs,siv->ziv", views, sharp * both[..., None]) / a
    g = torch.einsum("zs,siv->ziv", views, logs) / a
    return Given(a, m, g, world.truth)


def kl_fwd(x: Given) -> Tensor:
    """Forward KL; under SUBS also `hybrid_fwd`: a m + b p."""
    return x.a * x.m + (1 - x.a) * x.p


def no_ce(x: Given) -> Tensor:
    """Reverse KL where both are masked, nothing elsewhere: softmax(g)."""
    return x.g.softmax(-1)


def kl_bwd(x: Given) -> Tensor:
    """Reverse KL everywhere: softmax(a g + b 1e6 p), next to the arg max of p."""
    return (x.a * x.g - (1 - x.a) * NEG_INFINITY * x.p).softmax(-1)


def ce(x: Given) -> Tensor:
    return x.p


def hybrid(x: Given) -> Tensor:
    """Minimise Eq. 14: a KL(q || softmax(g)) - b p log q.

    Stationary where a log q - b p / q = a g - l. With r = b p / (a q) that is
    r + log r = log(b p / a) - g + l / a, so r is Wright's omega function; the one
    number l makes the sum 1.
    """
    a, b = x.a.clamp(min=1e-300), (1 - x.a).clamp(min=0.0)
    known = (b * x.p / a).log() - x.g

    def q(shift):
        # q = (b p / a) / omega(c) = exp(g - shift + omega(c)), without 0 / 0.
        r = torch.from_numpy(special.wrightomega((known + shift).numpy()))
        return (x.g - shift + r).exp()

    low = torch.full_like(a, -50.0)
    high = torch.full_like(a, 50.0)
    for _ in range(60):
        middle = (low + high) / 2
        large = q(middle).sum(-1, keepdim=True) > 1
        low, high = torch.where(large, middle, low), torch.where(large, high, middle)
    out = q((low + high) / 2)
    return out / out.sum(-1, keepdim=True)


OPTIMA: dict[str, Callable[[Given], Tensor]] = {
    "hybrid": hybrid,
    "kl_fwd": kl_fwd,
    "hybrid_no_ce": no_ce,
    "kl_bwd": kl_bwd,
    "ce": ce,
}


def student(world: Tiny, loss: str, teacher: Tensor, tau: float, views: Tensor) -> Tensor:
    """Return the table that minimises `loss` against `teacher`; visible tokens one-hot."""
    q = OPTIMA[loss](given(world, teacher, tau, views))
    return torch.where(world.masked[..., None], q, world.truth)


COUPLINGS = {"shared": shared, "independent": independent, "none": None}


def rounds(
    world: Tiny, loss: str, taus: Sequence[float], delta0: float, coupling="shared"
) -> list[Tensor]:
    """Run Algorithm 1 from the exact denoiser; return the student of every round.

    Each is the next one's teacher, and delta doubles. coupling: `shared`,
    `independent`, or `none` (the teacher is given z_t), as in `coupling.couple_as`.
    """
    table, found = world.truth, []
    for k, tau in enumerate(taus):
        delta = delta0 * 2**k
        law = COUPLINGS[coupling]
        views = world.views(delta, law) if law else torch.eye(len(world.z)).double()
        table = student(world, loss, table, tau, views)
        found.append(table)
    return found


def at_entropy(world: Tiny, steps: int, nats: float) -> float:
    """Return the temperature at which the exact denoiser's samples have this entropy."""

    def above(t):
        law = world.drawn(world.tempered(world.truth, t), steps)
        return world.nats(law) - nats

    return optimize.brentq(above, 0.05, 2.0, xtol=1e-9)


def fitted(world: Tiny, table: Tensor) -> float:
    """Return the temperature T of the exact denoiser p that is nearest to a table q.

    KL(q || p^(1/T)) is convex in 1/T, with slope E_(p^(1/T)) log p - E_q log p.
    """
    logs = torch.where(world.masked[..., None], world.truth.log(), 0.0)

    def slope(beta):
        p = world.tempered(world.truth, 1 / beta)
        return world.mean(((p - table) * logs).sum(-1))

    return 1 / optimize.brentq(slope, 0.1, 20.0, xtol=1e-12)


TAUS = (0.96, 0.93, 0.90, 0.87, 0.84)
FLAT = (1.0,) * 5
