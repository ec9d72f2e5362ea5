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
    assert metrics.pooled_entropy(repeated).value == pytest.approx(math.log(4))
    assert metrics.pooled_entropy(diverse).value == pytest.approx(math.log(32))


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
