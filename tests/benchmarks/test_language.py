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


def naive_log_prob(language, x):
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
        assert float(p[row]) == pytest.approx(naive_log_prob(language, x[row].tolist()))


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


def test_samples_follow_the_likelihood(language):
    drawn = language.draw(20_000, 3, counter_generator("draw"))
    code = drawn @ torch.tensor([VOCAB**2, VOCAB, 1])
    x = torch.tensor(list(itertools.product(range(VOCAB), repeat=3)))
    expected = language.log_prob(x).exp() * len(drawn)
    counts = torch.bincount(code, minlength=VOCAB**3).double()
    chi2 = ((counts - expected).square() / expected).sum()
    assert chi2 < 54.05  # 26 degrees of freedom, p = 0.001


def test_the_evaluator_counts_every_token(language):
    x = every_sequence()[:7]
    scores = language.nll(x)
    assert scores.value == pytest.approx(float(-language.log_prob(x).sum()) / (7 * LENGTH))


def test_rows_are_sparse_and_everything_is_possible():
    language = Language(vocab=32, components=4, branches=4, floor=0.02)
    torch.testing.assert_close(language.step.sum(-1), torch.ones(4, 32, dtype=torch.float64))
    assert int((language.step > 0.02 / 32 + 1e-12).sum(-1).max()) == 4
    x = torch.randint(32, (8, 64), generator=counter_generator("any"))
    assert language.log_prob(x).isfinite().all()


def test_the_oracle_answers_as_a_backbone(language):
    z = every_sequence()[:4].clone()
    z[:, 2:] = VOCAB
    oracle = Oracle(language)
    logits = oracle(x=z, sigma=torch.zeros(4), class_cond=None)
    assert logits.shape == (4, LENGTH, VOCAB + 1) and logits.dtype == torch.float32
    rows = z == VOCAB
    torch.testing.assert_close(
        oracle.denoise(z, rows)[:, :VOCAB].softmax(-1),
        logits[rows][:, :VOCAB].double().softmax(-1),
        atol=1e-6,
        rtol=1e-5,
    )
    torch.testing.assert_close(language.posterior(z)[rows], oracle.denoise(z, rows)[:, :VOCAB])
