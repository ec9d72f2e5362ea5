"""What does one shared u buy over independent masks?"""

from __future__ import annotations

import itertools

import torch
import torch.nn as nn
from torch import Tensor
from torch.func import functional_call, grad, vmap

from mdlm_mcd import losses
from mdlm_mcd.losses import NEG_INFINITY

from . import optimum, paths
from .pages import Table
from .tiny import Tiny, quadrature, world

DELTAS = (1 / 512, 1 / 64, 1 / 16, 1 / 4)
VOCABULARIES = (3, 64, 50258)


# The pair law ---------------------------------------------------------------------


def shared(t: float, delta: float) -> Tensor:
    """Return P(masked_t, masked_s) of a token under one u, (2, 2): Eq. 13 twice."""
    s = t - delta
    # u <= alpha_t: both see it; alpha_t < u <= alpha_s: the teacher does.
    return torch.tensor([[1 - t, 0.0], [t - s, s]], dtype=torch.float64)


def chain(t: float, delta: float) -> Tensor:
    """Of q(z_s | x0) q(z_t | z_s): the visible stays with chance alpha_t / alpha_s."""
    s = t - delta
    stays = (1 - t) / (1 - s)
    return torch.tensor([[(1 - s) * stays, 0.0], [(1 - s) * (1 - stays), s]], dtype=torch.float64)


def independent(t: float, delta: float) -> Tensor:
    s = t - delta
    of_t = torch.tensor([1 - t, t], dtype=torch.float64)
    return of_t[:, None] * torch.tensor([1 - s, s], dtype=torch.float64)


def apart(one: Tensor, other: Tensor, tokens: int) -> float:
    """Return the total variation of two pair laws of `tokens` independent tokens."""
    laws = []
    for law in (one, other):
        whole = torch.ones(1, dtype=torch.float64)
        for _ in range(tokens):
            whole = (whole[:, None] * law.flatten()).flatten()
        laws.append(whole)
    return float((laws[0] - laws[1]).abs().sum() / 2)


def views_sampled(w: Tiny, teacher: Tensor, delta: float) -> Tensor:
    """Return P(z_s | z_t) where the teacher draws what opens, (S, S): SDTT's step."""
    chance = w.chance(delta)
    for i in range(w.length):
        drawn = teacher[:, i][:, w.z[:, i].clamp(max=w.vocab - 1)]  # (S, S)
        opens = w.masked[:, i, None] & ~w.masked[None, :, i]
        chance = chance * torch.where(opens, drawn, 1.0)
    return torch.where(w.refines, chance, 0.0)


def along_the_sde(t: float = 0.5) -> Table:
    """Count tokens that come back if the latent follows the SDE, not the DDIM path."""
    rows = [
        (
            f"1/{1 / delta:.0f}",
            float(shared(t, delta)[0, 1]),
            *(paths.again(k, 1 - t + delta, 1 - t) for k in VOCABULARIES),
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
        views = w.views(delta)
        gap = (views - views_sampled(w, w.truth, delta)).abs().sum(-1) / 2
        cells = [apart(one, chain(t, delta), w.length), apart(one, other, w.length)]
        cells += [float(one[1, 0]), float(other[1, 0]), float(other[0, 1])]
        cells += [w.divergence(w.truth, table) for table in (mine, theirs)]
        rows.append((f"1/{1 / delta:.0f}", *cells, float((w.visited * gap).sum())))
    first = Table(
        f"Exactly, {w.length} tokens. TV: of the law of (masked_t, masked_s) at t = "
        "0.5, from one u. KL: of the exact denoiser from the best student (forward "
        "KL, tau = 1). Last: TV of z_s given z_t between MCD's views of the truth and "
        "one step of the exact denoiser's own samples",
        "delta | TV from q(z_t, z_s given x0) | TV from two u | teacher alone sees: one u | two u"
        " | student alone sees: two u | KL, one u | KL, two u | TV from a sampled step",
        rows,
    )
    return [first, along_the_sde()]


# The gradient ---------------------------------------------------------------------


class Student(nn.Module):
    """z (length,) -> logits (length, vocab); shares its weights between states."""

    def __init__(self, w: Tiny, width: int):
        super().__init__()
        self.length, self.vocab = w.length, w.vocab
        kinds = w.length * (w.vocab + 1)
        hidden = nn.Linear(kinds, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()
        self.layers = nn.Sequential(*hidden, nn.Linear(width, w.length * w.vocab))

    def forward(self, z: Tensor) -> Tensor:
        hot = (z[..., None] == torch.arange(self.vocab + 1)).double().flatten(-2)
        return self.layers(hot).unflatten(-1, (self.length, self.vocab))


def trained(w: Tiny, visited: Tensor, width: int, steps: int, seed: int = 0) -> Student:
    """Train a student on the exact denoiser, states weighted by `visited` (S,)."""
    torch.manual_seed(seed)
    model = Student(w, width).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    weight = (visited[:, None] * w.masked)[..., None] * w.truth
    for _ in range(steps):
        optimizer.zero_grad()
        (-(weight * model(w.z).log_softmax(-1)).sum()).backward()
        optimizer.step()
    return model


def pair_weights(w: Tiny, masks: Tensor, law, delta: float) -> Tensor:
    """Return the mean over t ~ U(delta, 1] of a pair law, (patterns of t, patterns of s)."""
    out = 0.0
    bits = masks.long()
    for t, weight in zip(*quadrature(delta, 1.0, w.length + 1), strict=True):
        token = law(float(t), delta)
        out = out + weight * token[bits[:, None], bits[None, :]].prod(-1)
    return out


def spread(w: Tiny, model: Student, loss: str, tau: float, settings) -> list[tuple]:
    """Return the exact moments of one sequence's gradient, all views and sequences enumerated.

    settings: weights (patterns, patterns), each. Returns for each (|mean|^2, variance, the part
    of it that z_s brings once x0 and z_t are given).
    """
    masks = torch.tensor(list(itertools.product((False, True), repeat=w.length)))
    views = torch.where(masks, w.vocab, w.x[:, None])  # (X, patterns, length)
    logs = w.tempered(w.truth, tau).log().clamp(min=NEG_INFINITY)
    target = logs[w.index(views)]  # (X, patterns, length, vocab)
    term = losses.get(loss)
    params = dict(model.named_parameters())

    def cost(params, x0, z_t, teacher, m_t, m_s):
        p = functional_call(model, params, (z_t,)).log_softmax(-1)
        both = term.distil(p, teacher, x0) * (m_t & m_s)
        return (both + term.reveal(p, teacher, x0) * (m_t & ~m_s)).sum()

    one = vmap(grad(cost), in_dims=(None, None, None, 0, None, 0))  # m_s
    many = vmap(one, in_dims=(None, None, 0, None, 0, None))  # m_t
    sums = [[0.0, 0.0, 0.0] for _ in settings]
    for x, p in enumerate(w.p):
        found = many(params, w.x[x], views[x], target[x], masks, masks)
        g = torch.cat([part.detach().flatten(2) for part in found.values()], -1)
        for total, weight in zip(sums, settings, strict=True):
            here = weight.sum(-1, keepdim=True).clamp(min=1e-300)
            centre = torch.einsum("ts,tsd->td", weight / here, g)
            square = (weight * g.square().sum(-1)).sum()
            within = square - (here[:, 0] * centre.square().sum(-1)).sum()
            total[0] = total[0] + p * (here * centre).sum(0)
            total[1] += float(p * square)
            total[2] += float(p * within)
    out = []
    for mean, square, within in sums:
        size = float(mean.square().sum())
        out.append((size, square - size, within))
    return out


def measured() -> list[Table]:
    w = world(4)
    model = trained(w, w.visited, width=24, steps=1500)  # where a distillation begins
    student = torch.where(w.masked[..., None], model(w.z).softmax(-1).detach(), w.truth)
    masks = torch.tensor(list(itertools.product((False, True), repeat=w.length)))
    deltas = DELTAS[1:]
    settings = [
        pair_weights(w, masks, law, delta) for law in (shared, independent) for delta in deltas
    ]
    rows = []
    for loss in ("hybrid", "kl_fwd"):
        found = spread(w, model, loss, 0.96, settings)
        for k, delta in enumerate(deltas):
            one, two = found[k], found[k + len(deltas)]
            (mean, spread_, by_z_s), (mean2, spread2, by_z_s2) = one, two
            figures = (mean, mean2, spread_, spread2, spread2 / spread_, by_z_s, by_z_s2)
            rows.append((f"{loss}, 1/{1 / delta:.0f}", *figures))
    table = Table(
        "Gradient of one sequence's loss by the "
        f"{sum(p.numel() for p in model.parameters())} weights of a small network "
        f"near the exact denoiser (KL {w.divergence(w.truth, student):.1e}), tau = "
        "0.96, summed exactly over x0, t and all views; variance is the trace of the "
        "covariance",
        "loss, delta | squared mean, one u | two u | variance, one u | two u | two over one | "
        "of it by z_s given x0, z_t: one u | two u",
        rows,
    )
    return [table]
