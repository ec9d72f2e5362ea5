"""The enumerated world against `couple` itself, loops, and the sampler tests' paths."""

import enumeration
import pytest
import torch
from theory_lib import tiny

from mdlm_mcd import coupling

DELTA = 0.3


def pattern_law(w, t, s):
    """P(masks of z_t, masks of z_s) by `couple`: one u in each cell between the thresholds."""
    edges = torch.tensor([0.0, 1 - t, 1 - s, 1.0], dtype=torch.float64)
    cells = torch.cartesian_prod(*[torch.arange(3)] * w.length)
    u = ((edges[1:] + edges[:-1]) / 2)[cells]
    times = (torch.full((len(u),), value, dtype=torch.float64) for value in (t, s))
    pair = coupling.couple(torch.zeros_like(cells), u, *times, lambda t: 1 - t, 1)
    bits = 2 ** torch.arange(w.length - 1, -1, -1)
    law = torch.zeros(len(w.patterns), len(w.patterns), dtype=torch.float64)
    at = pair.masked_t.long() @ bits, pair.masked_s.long() @ bits
    return law.index_put(at, edges.diff()[cells].prod(-1), accumulate=True)


@pytest.mark.parametrize("law", [tiny.shared, tiny.independent])
def test_what_the_teacher_sees_against_couple(law):
    w, pairs = tiny.world(3), 0.0
    for t, share in zip(*tiny.quadrature(DELTA, 1.0, 8), strict=True):
        both = pattern_law(w, float(t), float(t) - DELTA)
        if law is tiny.independent:  # every view of z_t with every view of z_s
            both = both.sum(1, keepdim=True) * both.sum(0)
        pairs = pairs + share * both
    torch.testing.assert_close(w.pairs(law, DELTA), pairs)
    joint = torch.zeros(len(w.z), len(w.z), dtype=torch.float64)
    for x, p in zip(w.x, w.p, strict=True):
        states = w.index(torch.where(w.patterns, w.vocab, x))
        joint[states[:, None], states] += p * pairs
    expected = joint / joint.sum(-1, keepdim=True)
    torch.testing.assert_close(w.views(DELTA, law), expected, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_samplers_law_against_all_its_paths(steps):
    w = tiny.world(enumeration.LENGTH)
    assert (w.vocab, w.vocab + 1) == (enumeration.MASK, enumeration.VOCAB)
    logits = torch.nn.functional.pad(w.truth.log().clamp(min=-1e6), (0, 1))
    logits = logits.view(*(enumeration.VOCAB,) * w.length, w.length, -1)
    law = enumeration.exact_law(logits, enumeration.uniform(steps))
    expected = [law[tuple(x)] for x in w.x.tolist()]
    torch.testing.assert_close(w.drawn(w.truth, steps), torch.tensor(expected, dtype=torch.float64))
