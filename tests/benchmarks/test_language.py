"""The exact languages against enumeration, in float64."""

import itertools
import math

import pytest
import torch
from bench.language import Language, Oracle, Topics
from theory_lib.tiny import Tiny

from mdlm_mcd.coupling import counter_generator

VOCAB, LENGTH = 3, 4


def by_chain(language, row):
    """The law of a sequence in each chain, or under each topic."""
    if isinstance(language, Topics):
        return math.prod(language.law[:, a] for a in row)
    steps = (language.step[:, a, b] for a, b in itertools.pairwise(row))
    return math.prod(steps, start=language.start[:, row[0]])


@pytest.fixture(scope="module", params=["chains", "topics"])
def world(request):
    if request.param == "topics":
        return Tiny(LENGTH, Topics(topics=2, words=1, shared=1, floor=0.1))
    return Tiny(LENGTH, Language(vocab=VOCAB, components=2, branches=2, floor=0.1, seed=3))


def test_likelihood_by_hand(world):
    language, x = world.language, world.x.tolist()
    expected = torch.stack([language.weight @ by_chain(language, row) for row in x])
    torch.testing.assert_close(world.p, expected)
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


def test_half_of_the_tokens_are_of_a_topic_and_contradict_those_of_others():
    language = Topics(topics=3, words=2, shared=4, floor=0.06)
    common = [0.24, 0.12, 0.08, 0.06]  # 1, 1/2, 1/3, 1/4 of 25/12, halved
    law = torch.tensor([*common, 0.005, 0.005, 0.24, 0.24, 0.005, 0.005], dtype=torch.float64)
    torch.testing.assert_close(language.law[1], law)
    # Two words of one topic, then of two: a shared token in between says nothing.
    one, two = language.posterior(torch.tensor([[6, 0, 7, 10], [6, 0, 8, 10]]))[:, 3].exp()
    ratio = (0.24 / 0.005) ** 2  # of the chances of topic 1 and of each other
    torch.testing.assert_close(one, (ratio * law + language.law[[0, 2]].sum(0)) / (ratio + 2))
    assert two[[6, 7]].sum() == pytest.approx(float(two[[8, 9]].sum()))
