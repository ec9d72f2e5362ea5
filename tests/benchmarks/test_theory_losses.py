"""Minima and gradients of the losses against their definitions, on enumerated views."""

import pytest
import torch
from theory_lib import optimum, shared_u, tiny

from mdlm_mcd import duality, losses
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


def test_moments_of_the_gradient_one_by_one(views):
    w = tiny.world(2)
    truth, weight = as_logits(w.truth).requires_grad_(), views[-1]
    each = []
    for *view, _ in zip(*views, strict=True):
        one = [x[None] for x in view]
        each += torch.autograd.grad(
            cost(w, "hybrid", truth, truth.detach(), [*one, weight.new_ones(1)]), truth
        )
    g = torch.stack(each).flatten(1)
    mean = weight @ g
    size, variance, within = shared_u.moments(w, "hybrid", TAU, w.pairs(tiny.shared, DELTA))
    assert size == pytest.approx(float(mean.square().sum()))
    assert variance == pytest.approx(float(weight @ (g - mean).square().sum(-1)))
    assert 0 < within < variance


@pytest.mark.parametrize("num_classes, s, t", [(8, 0.8, 0.4), (64, 0.52, 0.5)])
def test_how_often_the_sde_unmasks_again_against_latents_of_it(num_classes, s, t):
    size = 40_000
    g = torch.Generator().manual_seed(num_classes)
    at_s, at_t = (duality.calibrate(alpha, num_classes) for alpha in (s, t))
    eps_s, fresh = (
        torch.randn(size, num_classes, generator=g, dtype=torch.float64) for _ in range(2)
    )
    x0 = torch.zeros(size, dtype=torch.long)
    w_s = duality.latent(x0, eps_s, *at_s)
    step = at_t[0] / at_s[0]  # the transition kernel of the variance-preserving SDE
    w_t = step * w_s + (at_t[1] ** 2 - (step * at_s[1]) ** 2).sqrt() * fresh
    seen_s, seen_t = (duality.project(w, x0, num_classes - 1) == x0 for w in (w_s, w_t))
    share = (~seen_s & seen_t).double().mean().item()
    expected = shared_u.again(num_classes, s, t)
    assert abs(share - expected) < 4 * (expected / size) ** 0.5
