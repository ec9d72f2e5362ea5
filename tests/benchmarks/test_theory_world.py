"""The enumerated world against loops, the sampler tests' paths, and `couple` itself."""

import enumeration
import pytest
import torch
from theory_lib import spans, tiny

from mdlm_mcd import coupling

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
