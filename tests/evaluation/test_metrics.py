"""Figures against values worked out by hand."""

import math

import pytest
import torch

from mdlm_mcd.evaluation import metrics


def test_sample_entropy():
    tokens = torch.tensor([[1, 1, 1, 1], [1, 2, 3, 4], [5, 5, 6, 6]])
    expected = torch.tensor([0.0, math.log(4), math.log(2)], dtype=torch.float64)
    torch.testing.assert_close(metrics.sample_entropy(tokens), expected)


def test_pooled_entropy_sees_what_per_sample_entropy_hides():
    repeated = torch.tensor([[1, 2, 3, 4]]).repeat(8, 1)
    diverse = torch.arange(32).view(8, 4)
    assert torch.equal(metrics.sample_entropy(repeated), metrics.sample_entropy(diverse))
    assert metrics.corpus_entropy(repeated) == pytest.approx(math.log(4))
    assert metrics.corpus_entropy(diverse) == pytest.approx(math.log(32))


def test_perplexity_is_exp_of_the_mean_and_drops_nothing():
    nats = torch.tensor([[1.0, 2.0], [3.0, 0.0], [2.0, 2.0]])
    seen = []

    def judge(tokens):
        seen.append(len(tokens))
        return nats[tokens[:, 0]]

    tokens = torch.tensor([[0, 9, 9], [1, 9, 9], [2, 9, 9]])
    value, error = metrics.perplexity(tokens, judge, batch_size=2)
    assert seen == [2, 1]
    assert value == pytest.approx(math.exp(10 / 6))
    spread = torch.tensor([1.5, 1.5, 2.0]).std() / 3**0.5
    assert error == pytest.approx(math.exp(10 / 6) * float(spread), rel=1e-6)


def test_a_uniform_judge_gives_the_vocabulary_size():
    value, error = metrics.perplexity(
        torch.zeros(5, 9, dtype=torch.long),
        lambda tokens: torch.full((len(tokens), 8), math.log(50.0)),
    )
    assert value == pytest.approx(50) and error == pytest.approx(0)


def noise(t):
    return torch.full_like(t, -0.999), 1 - 0.999 * t


def test_nelbo_of_knowing_nothing_is_log_vocab():
    tokens = torch.randint(0, 10, (20_000, 20))
    value = metrics.nelbo(lambda z, rows: torch.zeros(int(rows.sum()), 11), noise, tokens, 10)
    # One of the 11 is the mask, which never is the answer.
    assert value == pytest.approx(0.999 * math.log(10), rel=0.02)


def test_nelbo_agrees_with_the_hosts_own(random_mdlm):
    from mdlm_mcd.hosts import duo

    model = random_mdlm
    tokens = torch.randint(0, 250, (2000, 16))
    with torch.no_grad():
        theirs = float(model.nll(tokens, None, None).mean())
    ours = metrics.nelbo(
        duo.denoiser(model),
        model.noise,
        tokens,
        model.mask_index,
        generator=torch.Generator().manual_seed(0),
    )
    assert ours == pytest.approx(theirs, rel=0.08)  # two noisy estimates


def test_nelbo_of_a_perfect_denoiser_is_nothing():
    tokens = torch.zeros(50, 8, dtype=torch.long)

    def knows(z, rows):
        logits = torch.full((int(rows.sum()), 11), -1e4)
        logits[:, 0] = 0.0
        return logits

    assert metrics.nelbo(knows, noise, tokens, 10) == 0.0
