"""What does one shared u buy over independent masks?"""

from __future__ import annotations

import itertools
import math
from functools import reduce

import numpy as np
import torch
from scipy import special
from torch import Tensor

from mdlm_mcd import losses
from mdlm_mcd.duality import NoiseGap
from mdlm_mcd.losses import NEG_INFINITY

from . import optimum
from .pages import Table
from .tiny import Tiny, independent, shared, world

DELTAS = (1 / 512, 1 / 64, 1 / 16, 1 / 4)
VOCABULARIES = (3, 64, 50258)


# The pair law ---------------------------------------------------------------------


def chain(t: float, delta: float) -> Tensor:
    """Of q(z_s | x0) q(z_t | z_s): the visible stays with chance alpha_t / alpha_s."""
    s = t - delta
    stays = (1 - t) / (1 - s)
    return torch.tensor([[(1 - s) * stays, 0.0], [(1 - s) * (1 - stays), s]], dtype=torch.float64)


def apart(one: Tensor, other: Tensor, tokens: int) -> float:
    """Return the total variation of two pair laws of `tokens` independent tokens."""
    whole = (reduce(torch.kron, [law.flatten()] * tokens) for law in (one, other))
    return float((next(whole) - next(whole)).abs().sum() / 2)


def sampled_step(w: Tiny, teacher: Tensor, delta: float) -> float:
    """Return the TV of z_s given z_t from SDTT's, where the teacher draws what opens."""
    pairs = w.pairs(shared, delta)
    law = (pairs / pairs.sum(-1, keepdim=True))[w.keys][:, w.keys]
    for i in range(w.length):
        drawn = teacher[:, i][:, w.z[:, i].clamp(max=w.vocab - 1)]  # (S, S)
        opens = w.masked[:, i, None] & ~w.masked[None, :, i]
        law = law * torch.where(opens, drawn, 1.0)
    law = torch.where(w.together > 0, law, 0.0)
    return float((w.visited * (w.views(delta) - law).abs().sum(-1)).sum() / 2)


def again(num_classes: int, alpha_s: float, alpha_t: float) -> float:
    """Return P(masked at s, visible at t) of a token along the SDE, s < t; 0 along DDIM.

    The DDIM path of Section 3.1 keeps eps. Along the forward SDE, which ends at alpha_t = 1/K, it
    is at t rho eps_s + sqrt(1 - rho^2) fresh, rho = r_t / r_s, r = alpha_tilde / sigma_tilde: the
    same marginals, another joint law. By quadrature over the token's own two noises, given which
    its K - 1 rivals are independent, each below both thresholds with a bivariate normal
    probability.
    """
    law = NoiseGap(num_classes)
    r_s, r_t = (float(law.icdf(alpha)) for alpha in (alpha_s, alpha_t))
    rho, step = r_t / r_s, 1 / 16
    grid = np.arange(-8.5, 8.5 + step / 2, step)
    weight = np.exp(-(grid**2) / 2) * step / math.sqrt(2 * math.pi)
    own, fresh = grid[:, None], grid[None, :]
    below = both_below(own + r_s, rho * own + math.sqrt(1 - rho**2) * fresh + r_t, rho)
    kept = weight @ np.exp((num_classes - 1) * np.log(below.clip(1e-300))) @ weight
    return alpha_t - float(kept)


def both_below(h: np.ndarray, k: np.ndarray, rho: float) -> np.ndarray:
    """Return P(X < h, Y < k) of normals with correlation rho in [0, 1), by Owen's T."""
    h, k = np.broadcast_arrays(h, k)
    h, k = (np.where(x == 0, 1e-300, x) for x in (h, k))
    root = math.sqrt(1 - rho**2)
    owen = special.owens_t(h, (k - rho * h) / (h * root)) + special.owens_t(
        k, (h - rho * k) / (k * root)
    )
    half = np.where(h * k < 0, 0.5, 0.0)
    return (special.ndtr(h) + special.ndtr(k)) / 2 - owen - half


def along_the_sde(t: float = 0.5) -> Table:
    """Count tokens that come back if the latent follows the SDE, not the DDIM path."""
    rows = [
        (
            f"1/{1 / delta:.0f}",
            float(shared(t, delta)[0, 1]),
            *(again(k, 1 - t + delta, 1 - t) for k in VOCABULARIES),
            float(independent(t, delta)[0, 1]),
        )
        for delta in DELTAS
    ]
    return Table(
        "Exactly, for one token: the chance that it is masked at s and visible again "
        f"at t = {t}, of views with the same marginals",
        "delta | one u: the DDIM path | "
        + "".join(f"the SDE, K = {k:,} | " for k in VOCABULARIES)
        + "two u",
        rows,
    )


def exact() -> list[Table]:
    w = world(5)
    rows = []
    for delta in DELTAS:
        t = 0.5
        one, other = shared(t, delta), independent(t, delta)
        mine, theirs = (
            optimum.rounds(w, "kl_fwd", (1.0,), delta, how)[0] for how in ("shared", "independent")
        )
        cells = [apart(one, chain(t, delta), w.length), apart(one, other, w.length)]
        cells += [float(one[1, 0]), float(other[1, 0]), float(other[0, 1])]
        cells += [w.divergence(w.truth, table) for table in (mine, theirs)]
        rows.append((f"1/{1 / delta:.0f}", *cells, sampled_step(w, w.truth, delta)))
    first = Table(
        f"Exactly, {w.length} tokens. TV: of the law of (masked_t, masked_s) at t = "
        "0.5, from one u. KL: of the exact denoiser from the best student (forward "
        "KL, tau = 1). Last: TV of z_s given z_t between MCD's views of the truth and "
        "one step of the exact denoiser's own samples",
        "delta | TV from q(z_t, z_s given x0) | TV from two u | teacher alone sees: one u | two u"
        " | student alone sees: two u | KL, one u | KL, two u | TV from a sampled step",
        rows,
    )
    return [first, along_the_sde(), of_the_gradient(world(4))]


# The gradient ---------------------------------------------------------------------


def moments(w: Tiny, loss: str, tau: float, pairs: Tensor) -> tuple[float, float, float]:
    """Return moments of one sequence's gradient by the logits of the exact denoiser's table.

    |mean|^2, the trace of the covariance, and the part of that which z_s brings once x0 and
    z_t are given. Every sequence and pair of views, weighted by `pairs` (see `Tiny.pairs`).
    """
    rows = w.index(torch.where(w.patterns, w.vocab, w.x[:, None]))  # (X, patterns)
    x, a, b = torch.cartesian_prod(*map(torch.arange, (len(w.x), *pairs.shape))).T
    at_t, at_s, weight = rows[x, a], rows[x, b], w.p[x] * pairs[a, b]
    logits = torch.nn.functional.pad(w.truth.log().clamp(min=NEG_INFINITY), (0, 1))
    own = logits[at_t].requires_grad_()  # a copy for each
    student = losses.subs(own, w.z[at_t], w.vocab)
    teacher = losses.subs(losses.temper(logits[at_s], tau), w.z[at_s], w.vocab)
    cost = losses.per_token(loss, student, teacher, w.x[x], w.masked[at_t], w.masked[at_s])
    cost.sum().backward()
    g = own.grad.flatten(1)
    mean = torch.zeros(len(w.z), g.shape[1]).double().index_add_(0, at_t, weight[:, None] * g)
    size, square = mean.square().sum(), (weight * g.square().sum(-1)).sum()
    centre = (weight[:, None] * g).view(-1, len(pairs), g.shape[1]).sum(1)  # given x0, z_t
    share = weight.view(-1, len(pairs)).sum(1).clamp(min=1e-300)
    given = (centre.square().sum(-1) / share).sum()
    return float(size), float(square - size), float(square - given)


def of_the_gradient(w: Tiny, tau: float = 0.96) -> Table:
    rows = []
    for loss, delta in itertools.product(("hybrid", "kl_fwd"), DELTAS[1:]):
        one, two = (moments(w, loss, tau, w.pairs(law, delta)) for law in (shared, independent))
        (mean, spread, by_z_s), (mean2, spread2, by_z_s2) = one, two
        figures = (mean, mean2, spread, spread2, spread2 / spread, by_z_s, by_z_s2)
        rows.append((f"{loss}, 1/{1 / delta:.0f}", *figures))
    return Table(
        "Gradient of one sequence's loss by the logits of the exact denoiser's table, tau = "
        f"{tau}, summed exactly over x0, t and all views; variance is the trace of the covariance",
        "loss, delta | squared mean, one u | two u | variance, one u | two u | two over one | "
        "of it by z_s given x0, z_t: one u | two u",
        rows,
    )
