"""Minima and gradients of the losses against their definitions, on enumerated views."""

import pytest
import torch
from theory_lib import optimum, tiny

from mdlm_mcd import losses
from mdlm_mcd.losses import NEG_INFINITY

DELTA, TAU = 0.2, 0.8


def enumerated(w, delta):
    """(x0, z_t, z_s rows, weight) of every sequence and pair of views."""
    pairs = w.pairs(tiny.shared, delta)
    x, a, b = torch.cartesian_prod(*map(torch.arange, (len(w.x), *pairs.shape))).T
    z_t, z_s = (torch.where(w.patterns[i], w.vocab, w.x[x]) for i in (a, b))
    return w.x[x], z_t, z_s, w.p[x] * pairs[a, b]


def cost(w, kind, logits, teacher, views):
    """Eq. 14 or an ablation by `losses.per_token`, averaged over all views."""
    x0, z_t, z_s, weight = views
    student = losses.subs(logits[w.index(z_t)], z_t, w.vocab)
    target = losses.subs(losses.temper(teacher[w.index(z_s)], TAU), z_s, w.vocab)
    each = losses.per_token(kind, student, target, x0, z_t == w.vocab, z_s == w.vocab)
    return (weight[:, None] * each).sum()


def as_logits(table):
    return torch.nn.functional.pad(table.log().clamp(min=-700.0), (0, 1))


@pytest.fixture(scope="module")
def views():
    return enumerated(tiny.world(2), DELTA)


def teacher_of(w):
    """No calibrated one, so that no minimum is one by accident."""
    noise = torch.randn(w.truth.shape, generator=torch.Generator().manual_seed(0))
    table = (w.truth.log() + noise.double()).softmax(-1)
    return torch.where(w.masked[..., None], table, w.truth)


@pytest.mark.parametrize("kind", ["hybrid", "hybrid_no_ce", "kl_fwd", "hybrid_fwd", "ce", "kl_bwd"])
def test_a_minimum_has_no_slope_and_nothing_near_it_is_lower(kind, views):
    w = tiny.world(2)
    name = "kl_fwd" if kind == "hybrid_fwd" else kind
    teacher = teacher_of(w)
    table = optimum.student(w, name, teacher, TAU, w.views(DELTA))
    best = as_logits(table).requires_grad_()
    lowest = cost(w, kind, best, as_logits(teacher), views)
    (slope,) = torch.autograd.grad(lowest, best)
    scale = -NEG_INFINITY if kind == "kl_bwd" else 1.0
    assert slope.abs().max() < 1e-9 * scale
    g = torch.Generator().manual_seed(1)
    for size in (0.01, 1.0):
        # Greedy, the minimum of `kl_bwd` is flat for hundreds of nats around it.
        moved = as_logits(table) * (0.002 if kind == "kl_bwd" else 1.0)
        moved = moved + size * torch.randn(best.shape, generator=g).double()
        assert cost(w, kind, moved, as_logits(teacher), views) > lowest
