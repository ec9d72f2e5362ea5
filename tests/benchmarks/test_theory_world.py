"""The enumerated world against loops, the sampler tests' paths, and `couple` itself."""

import itertools

import enumeration
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from theory_lib import fully_masked, shared_u, spans, tiny

from mdlm_mcd import coupling, laws

DELTA = 0.3


def alpha(t):
    return 1 - t


def pairs(t, s, length):
    """(masks of z_t, masks of z_s, weight) by `couple` on the cells of u."""
    u, weight = spans.cells(list(spans.iid(length)), [1 - t, 1 - s])
    x0 = torch.zeros(len(u), length, dtype=torch.long)
    times = (torch.full((len(u),), v, dtype=torch.float64) for v in (t, s))
    pair = coupling.couple(x0, u, *times, alpha, 1)
    return pair.masked_t, pair.masked_s, weight


@pytest.mark.parametrize("apart", [False, True])
def test_what_the_teacher_sees_against_couple(apart):
    w = tiny.world(3)
    size, joint = len(w.z), 0.0
    for t, share in zip(*tiny.quadrature(DELTA, 1.0, 8), strict=True):
        m_t, m_s, weight = pairs(float(t), float(t) - DELTA, 3)
        if apart:  # every view of z_t with every view of z_s
            both = weight[:, None] * weight
            m_t, m_s = m_t.repeat_interleave(len(m_s), 0), m_s.repeat(len(m_t), 1)
            weight = both.flatten()
        law = torch.zeros(size * size, dtype=torch.float64)
        for x, p in zip(w.x, w.p, strict=True):
            z_t, z_s = (w.index(torch.where(m, w.vocab, x)) for m in (m_t, m_s))
            law.index_add_(0, z_t * size + z_s, p * weight)
        joint = joint + share * law.view(size, size)
    expected = joint / joint.sum(-1, keepdim=True)
    found = (w.views_apart if apart else w.views)(DELTA)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_samplers_law_against_all_its_paths(steps):
    w = tiny.world(enumeration.LENGTH)
    assert (w.vocab, w.vocab + 1) == (enumeration.MASK, enumeration.VOCAB)
    logits = torch.nn.functional.pad(w.truth.log().clamp(min=-1e6), (0, 1))
    logits = logits.view(*(enumeration.VOCAB,) * w.length, w.length, -1)
    law = enumeration.exact_law(logits, enumeration.uniform(steps))
    expected = [law[tuple(x)] for x in w.x.tolist()]
    torch.testing.assert_close(w.drawn(w.truth, steps), torch.tensor(expected, dtype=torch.float64))


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 1.0), st.floats(0.05, 1.0))
def test_two_views_of_one_u_are_the_forward_chain(t, share):
    delta = share * t
    one, chain = shared_u.shared(t, delta), shared_u.chain(t, delta)
    torch.testing.assert_close(one, chain, atol=1e-14, rtol=1e-12)
    assert shared_u.apart(one, chain, 3) < 1e-12
    m_t, m_s, weight = pairs(t, t - delta, 1)
    for a, b in itertools.product((0, 1), repeat=2):
        here = (m_t[:, 0] == a) & (m_s[:, 0] == b)
        assert float(weight[here].sum()) == pytest.approx(float(one[a, b]), abs=1e-9)


def test_a_sampled_step_of_the_exact_denoiser_errs_by_the_square_of_delta():
    w = tiny.world(3)

    def gap(delta):
        other = shared_u.views_sampled(w, w.truth, delta)
        torch.testing.assert_close(other.sum(-1), torch.ones(len(w.z)).double())
        return float((w.visited * (w.views(delta) - other).abs().sum(-1)).sum())

    assert 3.5 < gap(0.01) / gap(0.005) < 4.5


# Laws of u ------------------------------------------------------------------------


@pytest.mark.parametrize("name", spans.LAWS)
def test_every_law_keeps_its_marginals(name):
    law = spans.pattern_law(list(spans.LAWS[name](4)), 4, t=0.7, s=0.4)
    assert float(law.sum()) == pytest.approx(1.0)
    bits = (torch.arange(16)[:, None] & 2 ** torch.arange(4)) > 0
    for marginal, t in ((law.sum(1), 0.7), (law.sum(0), 0.4)):
        masked = (marginal[:, None] * bits).sum(0)
        torch.testing.assert_close(masked, torch.full((4,), t, dtype=torch.float64))


def test_orders_under_laws_against_draws():
    w = tiny.world(3)
    torch.testing.assert_close(spans.sampler(w, list(spans.iid(3)), 3), w.iid(3))
    g = coupling.counter_generator("lattice")
    u = laws.draw_u(20_000, 3, "lattice", step=1 / 3, generator=g, dtype=torch.float64)
    one = torch.full((len(u),), 1 / len(u), dtype=torch.float64)
    found = w.order_law((u * 3).floor().long(), one)
    expected = spans.lattice(w, 3)
    assert (found[expected == 0] < 1e-3).all()  # a cell's edge, by rounding
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


# The fully masked state -----------------------------------------------------------


def test_entropies_of_a_state_against_sums():
    w, t = tiny.world(3), 0.6
    joint = torch.zeros(len(w.x), len(w.z), dtype=torch.float64)
    for masks in itertools.product((False, True), repeat=3):
        z = torch.where(torch.tensor(masks), w.vocab, w.x)
        share = t ** sum(masks) * (1 - t) ** (3 - sum(masks))
        joint[torch.arange(len(w.x)), w.index(z)] += share * w.p

    def h(law):
        return float(torch.special.entr(law).sum())

    whole, masks, information = fully_masked.state_entropy(w, t)
    assert whole == pytest.approx(h(joint.sum(0)))
    assert information == pytest.approx(h(w.p) + h(joint.sum(0)) - h(joint))
    assert fully_masked.state_entropy(w, 1.0) == pytest.approx((0, 0, 0), abs=1e-12)

    keep = (1 - t) * torch.eye(3).double() + t / 3
    kernel = keep[w.x[:, None, :], w.x[None, :, :]].prod(-1)
    joint = w.p[:, None] * kernel
    whole, information = fully_masked.uniform_state(w, t)
    assert whole == pytest.approx(h(joint.sum(0)))
    assert information == pytest.approx(h(w.p) + h(joint.sum(0)) - h(joint))


def test_one_step_cannot_beat_the_total_correlation():
    w = tiny.world(3)
    floor = fully_masked.total_correlation(w) / 3
    assert w.missing(w.drawn(w.truth, 1)) == pytest.approx(floor)
    for t in (0.5, 0.9, 1.5):
        assert w.missing(w.drawn(w.tempered(w.truth, t), 1)) > floor
    found = [fully_masked.with_latent(w, k, passes=60, starts=2) for k in (1, 2, 8)]
    assert found[0] == pytest.approx(floor)
    assert found[0] > found[1] > found[2] >= 0
