"""Intervals against known errors, scipy's bootstrap and leaving out by hand."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_the_value_is_that_of_all_samples_and_each_token_counts_once():
    assert SCORES.value == pytest.approx(107 / 39)
    assert SCORES.estimate().value == pytest.approx(107 / 39)
    assert intervals.mean(SCORES.nats).value == pytest.approx(107 / 8)


def test_chunks_change_nothing_and_the_seed_decides(monkeypatch):
    whole = SCORES.estimate(seed=3)
    assert whole == SCORES.estimate(seed=3) != SCORES.estimate(seed=4)
    monkeypatch.setattr(intervals, "CHUNK", 800)
    assert SCORES.estimate(seed=3) == pytest.approx(whole, rel=0.02)


def test_a_means_interval_covers_as_often_as_it_says():
    g = torch.Generator().manual_seed(0)
    hits = 0
    for trial in range(300):
        x = torch.randn(60, generator=g, dtype=torch.float64)
        found = intervals.mean(x, seed=trial, resamples=300)
        hits += found.low <= 0.0 <= found.high
    assert 0.90 <= hits / 300 <= 0.98


def test_paired_differences_lose_what_the_latents_share():
    g = torch.Generator().manual_seed(0)
    shared, own = torch.randn(2, 400, generator=g, dtype=torch.float64)
    ones = torch.ones(400)
    a, b = 10 + 5 * shared, 9 + 5 * shared + 0.1 * own
    found = intervals.paired(intervals.per_token, (a, ones), (b, ones))
    assert found.value == pytest.approx(float((a - b).mean()))
    assert 0.9 < found.low < found.value < found.high < 1.1
    alone = intervals.mean(a)
    assert alone.high - alone.low > 20 * (found.high - found.low)
    same = intervals.paired(intervals.per_token, (a, ones), (a, ones))
    assert same == (0.0, 0.0, 0.0)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    x = torch.tensor([1.0, 4.0, 2.0, 9.0, 5.0], dtype=torch.float64)
    without = (x.sum() - x) / 4
    found = intervals.jackknife(float(x.mean()), without)
    error = float(x.std() / 5**0.5)
    assert found.high - found.value == pytest.approx(1.96 * error)
    assert found.value - found.low == pytest.approx(1.96 * error)
    assert intervals.jackknife(2.0, torch.ones(1)) == (2.0, None, None)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40),
    st.floats(-100, 100),
    st.floats(0.01, 100),
)
def test_a_mean_moves_and_scales_with_its_values(values, shift, scale):
    x = torch.tensor(values, dtype=torch.float64)
    before = intervals.mean(x, resamples=50)
    after = intervals.mean(scale * x + shift, resamples=50)
    assert before.low - 1e-6 <= before.high
    for old, new in zip(before, after, strict=True):
        assert new == pytest.approx(scale * old + shift, rel=1e-6, abs=1e-6)


def test_what_cannot_be_resampled_is_refused():
    one = torch.ones(1)
    with pytest.raises(ConfigError, match="at least 2 samples and has 1"):
        intervals.mean(one)
    with pytest.raises(ConfigError, match=r"columns of \[1, 3\] samples"):
        intervals.bootstrap(intervals.per_token, one, torch.ones(3))
    with pytest.raises(ConfigError, match="of sample 1 is nan .1 of 3"):
        intervals.mean(torch.tensor([0.0, float("nan"), 1.0]))
