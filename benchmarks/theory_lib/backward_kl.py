"""Why does the backward KL explode?"""

from __future__ import annotations

import torch
from torch import Tensor

from mdlm_mcd import coupling, losses
from mdlm_mcd.losses import NEG_INFINITY

from . import optimum
from .pages import Table
from .tiny import Tiny, world

TAU, DELTA = 0.96, 1 / 512
STEPS, BATCH, TRAINED_DELTA = 600, 128, 1 / 32


def revealed(w: Tiny, views: Tensor) -> Tensor:
    """Return P(the teacher sees a token that is masked in z_t | z_t), (S, length)."""
    return 1 - views @ w.masked.double()


def costs(w: Tiny, q: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of a revealed token's cost over the truth, (S, length): CE, reverse KL."""
    ce = -torch.where(w.truth > 0, torch.xlogy(w.truth, q), 0.0).sum(-1)
    wrong = 1 - (w.truth * q).sum(-1)
    return ce, -torch.special.entr(q).sum(-1) - NEG_INFINITY * wrong


def slopes(w: Tiny, q: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean length of the gradient by a revealed token's logits, (S, length)."""
    away = torch.eye(w.vocab, dtype=torch.float64) - q[..., None, :]  # (.., x0, v)
    ce = away.norm(dim=-1)
    surprise = q.log().clamp(min=NEG_INFINITY)
    own = q * (surprise - (q * surprise).sum(-1, keepdim=True))
    backward = (NEG_INFINITY * q[..., None] * away + own[..., None, :]).norm(dim=-1)
    return (w.truth * ce).sum(-1), (w.truth * backward).sum(-1)


def exact() -> list[Table]:
    w = world(5)
    views = w.views(DELTA)
    b = revealed(w, views)

    def of_revealed(values: Tensor) -> float:
        return w.mean(b * values) / w.mean(b)

    (ce, backward), (ce_slope, slope) = costs(w, w.truth), slopes(w, w.truth)
    kl = w.divergence(w.truth, w.tempered(w.truth, TAU))  # delta -> 0, per token
    each = (w.mean(b * cost) + kl for cost in (ce, backward))
    gradient = "gradient by the logits of a token the teacher sees"
    first = Table(
        f"The first step, at the calibrated student (delta = 1/512, tau = {TAU}); "
        f"{w.mean(b):.2%} of its masked tokens are seen by the teacher",
        " | hybrid (Eq. 14) | kl_bwd",
        [
            ("a token the teacher sees, nats", *map(of_revealed, (ce, backward))),
            ("a token masked for both, about", kl, kl),
            ("mean over the student's masked tokens", *each),
            (gradient, *map(of_revealed, (ce_slope, slope))),
        ],
    )
    rows = []
    best = w.truth.argmax(-1, keepdim=True)
    for name in ("teacher", "hybrid", "kl_bwd"):
        q, cost = w.truth, ""
        if name != "teacher":
            q = optimum.student(w, name, w.truth, TAU, views)
            cost = w.mean(b * costs(w, q)[name == "kl_bwd"])
        law, likeliest = w.drawn(q, 4), w.mean(q.gather(-1, best)[..., 0])
        rows.append((name, w.entropy(q), likeliest, cost, w.nats(law), w.perplexity(law)))
    end = Table(
        "Where the loss is lowest: the best table of one round",
        " | entropy, nats a token | chance of the likeliest token | cost left at tokens the "
        "teacher sees, a masked token | entropy of 4-step samples, nats a token | their exact "
        "perplexity",
        rows,
    )
    return [first, end]


# Trained --------------------------------------------------------------------------


def train(w: Tiny, loss: str, way: str, clip: float | None) -> tuple[list, Tensor]:
    """Algorithm 1's first round on logits (S, length, vocab + 1), by sampling.

    Loss a masked token by step, and the table that is left.
    """
    teacher = torch.nn.functional.pad(w.truth.log().clamp(min=NEG_INFINITY), (0, 1))
    logits = teacher.clone().requires_grad_()
    optimizer = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[way]([logits], lr=0.05)
    found = []
    for step in range(STEPS):
        g = coupling.counter_generator("backward kl", step)
        x0 = w.x[torch.multinomial(w.p, BATCH, replacement=True, generator=g)]
        t, s = coupling.sample_times(BATCH, TRAINED_DELTA, generator=g)
        u = coupling.draw_u(BATCH, w.length, generator=g, dtype=torch.float64)
        pair = coupling.couple(x0, u, t, s, lambda t: 1 - t, w.vocab)
        p = losses.subs(logits[w.index(pair.z_t)], pair.z_t, w.vocab)
        q = losses.temper(teacher[w.index(pair.z_s)], TAU)
        q = losses.subs(q, pair.z_s, w.vocab)
        cost = losses.per_token(loss, p, q, x0, pair.masked_t, pair.masked_s)
        optimizer.zero_grad()
        cost.mean().backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_([logits], clip)
        optimizer.step()
        found.append(float(cost.detach().sum() / pair.masked_t.sum()))
    table = logits.detach()[..., :-1].softmax(-1)
    return found, torch.where(w.masked[..., None], table, w.truth)


WAYS = (
    ("hybrid", "adam", 1.0),
    ("kl_bwd", "adam", 1.0),
    ("kl_bwd", "adam", None),
    ("kl_bwd", "sgd", 1.0),
    ("kl_bwd", "sgd", None),
)


def measured() -> list[Table]:
    w = world(4)
    rows = []
    for loss, way, clip in WAYS:
        curve, table = train(w, loss, way, clip)
        chosen = w.truth.gather(-1, table.argmax(-1, keepdim=True))[..., 0]
        name = f"{loss}, {way}, " + ("clipped to 1" if clip else "not clipped")
        apart = w.missing(w.drawn(table, 4).clamp(min=1e-30))
        last = float(torch.tensor(curve[-100:]).mean())
        rows.append((name, curve[0], last, w.entropy(table), w.mean(chosen), apart))
    table = Table(
        f"{STEPS} sampled steps of {BATCH} sequences from the exact denoiser (entropy "
        f"{w.entropy(w.truth):.4f}, true chance of its likeliest token "
        f"{w.mean(w.truth.max(-1).values):.4f}); delta = 1/32, learning rate 0.05",
        " | loss a masked token, first step | last 100 steps | entropy left, nats | true chance of "
        "its likeliest token | KL from the language, nats a token",
        rows,
    )
    return [table]
