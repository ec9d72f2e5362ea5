"""The exact language against enumeration, in float64."""

import itertools

import pytest
import torch
from bench.language import Language, Oracle

from mdlm_mcd.coupling import counter_generator

VOCAB, LENGTH = 3, 5


@pytest.fixture
def language():
    return Language(vocab=VOCAB, components=2, branches=2, floor=0.1, seed=3)


def every_sequence():
    return torch.tensor(list(itertools.product(range(VOCAB), repeat=LENGTH)))


def probability(language, x):
    total = 0.0
    for k in range(len(language.weight)):
        p = float(language.weight[k] * language.start[k, x[0]])
        for a, b in itertools.pairwise(x):
            p *= float(language.step[k, a, b])
        total += p
    return total


def test_likelihood_against_enumeration(language):
    x = every_sequence()
    p = language.log_prob(x).exp()
    torch.testing.assert_close(p.sum(), torch.tensor(1.0, dtype=torch.float64))
    for row in (0, 17, 100, 242):
        assert float(p[row]) == pytest.approx(probability(language, x[row].tolist()))
    scores = language.nll(x[:7])
    assert scores.value == pytest.approx(float(-p[:7].log().sum()) / (7 * LENGTH))


def test_denoiser_against_enumeration(language):
    x = every_sequence()
    p = language.log_prob(x).exp()
    g = counter_generator("views")
    z = torch.where(torch.rand(40, LENGTH, generator=g) < 0.6, VOCAB, x[100:140])
    z[0] = VOCAB
    found = language.posterior(z).exp()
    for row, view in enumerate(z):
        fits = ((x == view) | (view == VOCAB)).all(-1)
        weight = p * fits
        for i in range(LENGTH):
            law = torch.zeros(VOCAB, dtype=torch.float64)
            law.index_add_(0, x[:, i], weight / weight.sum())
            torch.testing.assert_close(found[row, i], law, atol=1e-12, rtol=1e-9)
    logits = Oracle(language)(z, torch.zeros(len(z)))  # as a backbone
    torch.testing.assert_close(logits[..., :VOCAB].softmax(-1).double(), found)


def test_samples_follow_the_likelihood(language):
    drawn = language.draw(20_000, 3, counter_generator("draw"))
    code = drawn @ torch.tensor([VOCAB**2, VOCAB, 1])
    x = torch.tensor(list(itertools.product(range(VOCAB), repeat=3)))
    expected = language.log_prob(x).exp() * len(drawn)
    counts = torch.bincount(code, minlength=VOCAB**3).double()
    chi2 = ((counts - expected).square() / expected).sum()
    assert chi2 < 54.05  # 26 degrees of freedom, p = 0.001
