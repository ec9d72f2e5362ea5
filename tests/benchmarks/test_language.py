"""The exact language against enumeration, in float64."""

import itertools

import pytest
import torch
from bench.language import Language, Oracle
from theory_lib.tiny import Tiny

from mdlm_mcd.coupling import counter_generator

VOCAB, LENGTH = 3, 4


@pytest.fixture(scope="module")
def world():
    return Tiny(LENGTH, Language(vocab=VOCAB, components=2, branches=2, floor=0.1, seed=3))


def test_likelihood_by_hand(world):
    language, x, expected = world.language, world.x.tolist(), []
    for row in x:
        chains = language.weight * language.start[:, row[0]]
        for a, b in itertools.pairwise(row):
            chains = chains * language.step[:, a, b]
        expected.append(chains.sum())
    torch.testing.assert_close(world.p, torch.stack(expected))
    assert float(world.p.sum()) == pytest.approx(1)
    assert language.nll(world.x[:7]).value == pytest.approx(-float(world.p[:7].log().mean()) / 4)


def test_denoiser_against_enumeration(world):
    hot = torch.nn.functional.one_hot(world.x, VOCAB).double()
    joint = torch.einsum("sx,xlv->slv", world.fits * world.p, hot)
    expected = joint / world.mass[:, None, None]
    torch.testing.assert_close(world.truth, expected, atol=1e-12, rtol=1e-9)
    logits = Oracle(world.language)(world.z, None)  # as a backbone
    torch.testing.assert_close(logits[..., :VOCAB].softmax(-1).double(), expected)


def test_samples_follow_the_likelihood(world):
    drawn = world.language.draw(20_000, LENGTH, counter_generator("draw"))
    code = drawn @ VOCAB ** torch.arange(LENGTH - 1, -1, -1)
    counts, expected = torch.bincount(code, minlength=VOCAB**LENGTH), world.p * len(drawn)
    chi2 = ((counts - expected).square() / expected).sum()
    assert chi2 < 124.8  # 80 degrees of freedom, p = 0.001
