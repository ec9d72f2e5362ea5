"""Eq. 14 and its ablations against a naive float64 reference."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlm_mcd import losses

BATCH, LENGTH, VOCAB, MASK = 3, 7, 11, 10
KINDS = list(losses.LOSSES)


def make(seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    shape = (BATCH, LENGTH, VOCAB)
    student = 3 * torch.randn(shape, generator=g, dtype=torch.float64)
    teacher = 3 * torch.randn(shape, generator=g, dtype=torch.float64)
    x0 = torch.randint(0, MASK, (BATCH, LENGTH), generator=g)
    u = torch.rand(BATCH, LENGTH, generator=g)
    masked_t, masked_s = u > 0.3, u > 0.6
    return student.to(dtype), teacher.to(dtype), x0, masked_t, masked_s


def log_probs(student, teacher, x0, masked_t, masked_s, tau):
    z_t, z_s = (torch.where(m, MASK, x0) for m in (masked_t, masked_s))
    return (losses.subs(student, z_t, MASK), losses.subs(losses.temper(teacher, tau), z_s, MASK))


def naive_distribution(logits, visible_as):
    """Probabilities under SUBS, in plain Python; None: masked."""
    if visible_as is not None:
        return [1.0 if v == visible_as else 0.0 for v in range(VOCAB)]
    weights = [math.exp(x) for x in logits[:MASK]]
    return [w / sum(weights) for w in weights] + [0.0]


def naive(kind, student, teacher, x0, masked_t, masked_s, tau):
    """Eq. 14 token by token, from its text."""

    def log(p):
        return math.log(p) if p > 0 else losses.NEG_INFINITY

    def kl(p, q):
        return sum(a * (log(a) - log(b)) for a, b in zip(p, q, strict=True) if a > 0)

    def tv(p, q):
        return sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2

    def mse(p, q):
        return sum((log(p[v]) - log(q[v])) ** 2 for v in range(MASK)) / MASK

    out = torch.zeros(BATCH, LENGTH, dtype=torch.float64)
    for b in range(BATCH):
        for i in range(LENGTH):
            if not masked_t[b, i]:
                continue
            p = naive_distribution(student[b, i].tolist(), None)
            both = bool(masked_s[b, i])
            q = naive_distribution(
                (teacher[b, i] / tau).tolist(), None if both else x0[b, i].item()
            )
            ce = -math.log(p[x0[b, i]])
            soft_p, soft_q = (naive_distribution([log(x) / 2 for x in d], None) for d in (p, q))
            out[b, i] = {
                "hybrid": kl(p, q) if both else ce,
                "hybrid_fwd": kl(q, p) if both else ce,
                "kl_fwd": kl(q, p),
                "kl_bwd": kl(p, q),
                "ce": ce,
                "hybrid_no_ce": kl(p, q) if both else 0.0,
                "tvd": tv(p, q),
                "mse": mse(p, q) if both else ce,
                "kl_soft": 4 * kl(soft_q, soft_p),
            }[kind]
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tau", [1.0, 0.9, 0.5])
def test_equals_the_naive_reference(kind, tau):
    student, teacher, x0, masked_t, masked_s = make()
    assert (masked_t & ~masked_s).any() and masked_s.any() and (~masked_t).any()
    logp = log_probs(student, teacher, x0, masked_t, masked_s, tau)
    got = losses.per_token(kind, *logp, x0, masked_t, masked_s)
    expected = naive(kind, student, teacher, x0, masked_t, masked_s, tau)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    # Nothing where the teacher alone is masked, as independent masks have it.
    masks = (masked_t, masked_s | ~masked_t)
    logp = log_probs(student, teacher, x0, *masks, tau)
    assert (losses.per_token(kind, *logp, x0, *masks)[~masked_t] == 0).all()
    # Reverse KL costs about a million where only the teacher sees.
    assert (got[masked_t & ~masked_s].mean() > 1e5) == (kind == "kl_bwd")


@settings(deadline=None, max_examples=30)
@given(tau=st.floats(0.05, 3.0), seed=st.integers(0, 1000))
def test_any_tau(tau, seed):
    """Forward KL against SUBS's one-hot is the cross-entropy; tau is a power."""
    student, teacher, *rest = make(seed)
    logp = log_probs(student, teacher, *rest, tau)
    a, b = (losses.per_token(kind, *logp, *rest) for kind in ("hybrid_fwd", "kl_fwd"))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    got = losses.subs_masked(losses.temper(teacher, tau), MASK).exp()
    power = losses.subs_masked(teacher, MASK).exp() ** (1 / tau)
    torch.testing.assert_close(got, power / power.sum(-1, keepdim=True))


@pytest.mark.parametrize("kind", ["hybrid", "hybrid_fwd", "kl_fwd", "kl_bwd"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_equal_distributions_cost_exactly_nothing(kind, dtype):
    student, _, x0, masked_t, _ = make(dtype=dtype)
    logp = log_probs(student, student, x0, masked_t, masked_t, tau=1.0)
    assert (losses.per_token(kind, *logp, x0, masked_t, masked_t) == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_finite_with_finite_gradients(kind, dtype, scale):
    student, teacher, x0, masked_t, masked_s = make(dtype=dtype)
    student = (scale * student).requires_grad_()
    logp = log_probs(student, scale * teacher, x0, masked_t, masked_s, 0.7)
    loss = losses.per_token(kind, *logp, x0, masked_t, masked_s)
    assert loss.dtype == torch.float32
    loss.sum().backward()
    assert loss.isfinite().all() and student.grad.isfinite().all()


def test_subs_is_the_hosts_parameterization():
    """No mass on the mask token; one-hot, to the hosts' -1e6, on visible tokens."""
    student, _, x0, masked_t, _ = make()
    z_t = torch.where(masked_t, MASK, x0)
    log_p = losses.subs(student, z_t, MASK)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones_like(log_p[..., 0]))
    assert (log_p[..., MASK] < -1e5).all()
    visible = log_p[~masked_t]
    assert (visible.gather(-1, x0[~masked_t][:, None]) == 0).all()
    assert (visible.sum(-1) == losses.NEG_INFINITY * (VOCAB - 1)).all()


def test_subs_widens_half_precision():
    assert losses.subs_masked(torch.zeros(2, VOCAB).bfloat16(), MASK).dtype == torch.float32
