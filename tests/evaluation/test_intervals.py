"""Intervals against known errors, scipy's bootstrap and leaving out by hand."""

import numpy as np
import pytest
import scipy.stats
import torch

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import intervals

SCORES = intervals.Scores(
    torch.tensor([8.0, 9, 30, 4, 12, 7, 15, 22], dtype=torch.float64),
    torch.tensor([4.0, 3, 9, 2, 5, 3, 5, 8], dtype=torch.float64),
)


def test_a_ratio_is_resampled_jointly_as_scipy_does():
    found = SCORES.estimate(intervals.perplexity, resamples=20_000)
    assert found.value == SCORES.perplexity == pytest.approx(np.exp(107 / 39))
    theirs = scipy.stats.bootstrap(
        tuple(c.numpy() for c in SCORES),
        lambda nats, tokens, axis: np.exp(nats.sum(axis) / tokens.sum(axis)),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        vectorized=True,
        random_state=np.random.default_rng(0),  # `rng` from SciPy 1.15 on
    ).confidence_interval
    assert found.low == pytest.approx(theirs.low, rel=0.01)
    assert found.high == pytest.approx(theirs.high, rel=0.01)


def test_chunks_change_nothing_and_the_seed_decides(monkeypatch):
    whole = SCORES.estimate(seed=3)
    assert whole == SCORES.estimate(seed=3) != SCORES.estimate(seed=4)
    monkeypatch.setattr(intervals, "CHUNK", 800)
    assert SCORES.estimate(seed=3) == pytest.approx(whole, rel=0.02)


def test_a_difference_loses_what_the_latents_share():
    g = torch.Generator().manual_seed(0)
    shared, own = torch.randn(2, 400, generator=g, dtype=torch.float64)
    a, b, ones = 10 + 5 * shared, 9 + 5 * shared + 0.1 * own, torch.ones(400)
    found = intervals.bootstrap(lambda a, b, n: (a - b) / n, a, b, ones)
    assert found.value == pytest.approx(float((a - b).mean()))
    assert 0.9 < found.low < found.value < found.high < 1.1
    alone = intervals.mean(a)
    assert alone.high - alone.low > 20 * (found.high - found.low)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    x = torch.tensor([1.0, 4.0, 2.0, 9.0, 5.0], dtype=torch.float64)
    without = (x.sum() - x) / 4
    found = intervals.jackknife(float(x.mean()), without)
    error = float(x.std() / 5**0.5)
    assert found.high - found.value == pytest.approx(1.96 * error)
    assert found.value - found.low == pytest.approx(1.96 * error)
    assert intervals.jackknife(2.0, torch.ones(1)) == (2.0, None, None)


def test_what_cannot_be_resampled_is_refused():
    with pytest.raises(ConfigError, match="at least 2 samples and has 1"):
        intervals.mean(torch.ones(1))
    with pytest.raises(ConfigError, match="of sample 1 is nan .1 of 3"):
        intervals.mean(torch.tensor([0.0, float("nan"), 1.0]))


def test_the_correlation_of_samples_of_unequal_length():
    """Few tokens weigh less in nats per token, not in entropy: the bootstrap's."""
    generator = torch.Generator().manual_seed(0)
    n = 400
    tokens = torch.randint(2, 60, (n,), generator=generator).double()
    entropies = torch.rand(n, generator=generator, dtype=torch.float64)
    noise = torch.rand(n, generator=generator, dtype=torch.float64)
    nats = tokens * (1 + entropies + 0.5 * noise + 3 / tokens)
    pick = torch.randint(n, (10_000, n), generator=generator)
    value = nats[pick].sum(-1) / tokens[pick].sum(-1)
    resampled = torch.corrcoef(torch.stack((value, entropies[pick].mean(-1))))[0, 1]
    found = intervals.correlation(intervals.Scores(nats, tokens), entropies)
    plain = torch.corrcoef(torch.stack((nats, entropies)))[0, 1]
    assert found == pytest.approx(float(resampled), abs=0.03)
    assert abs(found - plain) > 0.1
