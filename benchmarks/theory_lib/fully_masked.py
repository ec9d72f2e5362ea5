"""Is there anything in a fully masked state for a consistency map to use?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import optimum
from .optimum import TAUS
from .pages import Table
from .tiny import Tiny, world

SIZES = (1, 2, 3, 4, 8, 16)


def state_entropy(w: Tiny, t: float) -> tuple[float, float, float]:
    """Return H(z_t), of that the masks', and I(x0; z_t) in nats a sequence."""
    whole = float(torch.special.entr(w.at(t)).sum())
    masks = w.length * sum(-q * math.log(q) for q in (t, 1 - t) if q > 0)
    # H(z_t | x0) is the masks', so I(x0; z_t) = H(z_t) - H(masks).
    return whole, masks, whole - masks


def uniform_state(w: Tiny, t: float) -> tuple[float, float]:
    """Return H(z_t) and I(x0; z_t) of a uniform-state z_t, nats a sequence."""
    keep = (1 - t) * torch.eye(w.vocab, dtype=torch.float64) + t / w.vocab
    law = w.p.view((w.vocab,) * w.length)
    for _ in range(w.length):
        law = torch.tensordot(law, keep, dims=([0], [0]))  # the axes come round again
    noise = w.length * float(torch.special.entr(keep[0]).sum())
    whole = float(torch.special.entr(law).sum())
    return whole, whole - noise


def with_latent(w: Tiny, kinds: int, passes: int = 400, starts: int = 3) -> float:
    """Return KL(language || best mixture of `kinds` products), nats a token, by EM.

    What one step can reach if the input carries one of `kinds` values. Local optima:
    the best of a few starts, an upper bound of the minimum.
    """
    hot = torch.nn.functional.one_hot(w.x, w.vocab).double()  # (X, length, vocab)
    best = math.inf
    for seed in range(starts):
        g = torch.Generator().manual_seed(seed)
        belongs = torch.rand(len(w.x), kinds, generator=g, dtype=torch.float64) ** 4
        belongs = belongs / belongs.sum(-1, keepdim=True)
        for _ in range(passes):
            joint = w.p[:, None] * belongs
            weight = joint.sum(0)
            parts = torch.einsum("xk,xlv->klv", joint, hot)
            parts = parts / weight.clamp(min=1e-300)[:, None, None]
            logs = torch.einsum("xlv,klv->xk", hot, parts.clamp(min=1e-300).log())
            logs = logs + weight.clamp(min=1e-300).log()
            belongs = logs.softmax(-1)
        best = min(best, w.missing(logs.logsumexp(-1).exp()))
    return best


def one_step(w: Tiny) -> tuple[Table, dict[str, Tensor]]:
    empty = w.index(torch.full((w.length,), w.vocab))
    taught = {"exact denoiser": w.truth}
    for loss in ("kl_fwd", "hybrid", "hybrid_no_ce"):
        taught[f"{loss}, five rounds"] = optimum.rounds(w, loss, TAUS, 1 / 64)[-1]
    taught["exact denoiser at T = 0.02"] = w.tempered(w.truth, 0.02)
    rows = []
    for label, table in taught.items():
        law, own = w.drawn(table, 1), float(torch.special.entr(table[empty]).sum() / w.length)
        rows.append((label, w.missing(law), w.perplexity(law), w.nats(law), own))
    rows.append(("the language", 0.0, w.perplexity(w.p), w.nats(w.p), ""))
    return Table(
        "One step from all masks, exactly: KL from the language, perplexity and "
        "entropy of samples, all a token; and the entropy of the one prediction that "
        "is made",
        " | KL | perplexity | entropy | of the prediction",
        rows,
    ), taught


def exact() -> list[Table]:
    w = world(5)
    times = (0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
    rows = [(f"{t:g}", *state_entropy(w, t), *uniform_state(w, t)) for t in times]
    states = Table(
        f"Entropy of z_t, nats a sequence of {w.length} tokens (the language's own: "
        f"{float(torch.special.entr(w.p).sum()):.4f}), and what it tells of x0",
        "t | H(z_t) | of it which are masked | I(x0; z_t) | uniform noise: H(z_t) | I(x0; z_t)",
        rows,
    )
    one, taught = one_step(w)
    many = [
        (label, *(w.missing(w.drawn(table, n)) for n in (1, 2, 3, 4)))
        for label, table in taught.items()
    ]
    steps = Table(
        "KL from the language, nats a token, by sampling steps",
        " | 1 step | 2 steps | 3 steps | 4 steps",
        many,
    )
    return [states, one, steps]


def measured() -> list[Table]:
    w = world(5)
    rows = [(f"{kinds}", math.log(kinds), with_latent(w, kinds)) for kinds in SIZES]
    table = Table(
        "One step whose input carries a latent of so many values (best of three starts "
        "of EM, an upper bound): KL from the language, nats a token",
        "values | nats of latent a sequence | KL",
        rows,
    )
    return [table]
