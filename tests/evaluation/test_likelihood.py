"""Exact likelihoods against the law of the sampler, summed over all of its paths."""

import math

import pytest
import torch
from enumeration import (
    EMPTY,
    LENGTH,
    MASK,
    alpha,
    assert_law,
    chances,
    denoiser,
    draw,
    generator,
    hosts,
    table,
    timed,
    timed_table,
)
from test_bounds import X0S, cosine, lattice_patterns, linear, log_p

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import likelihood
from mdlm_mcd.sampling import chain

HOW = dict(mask_index=MASK, batch_size=7)


def of_confidence(steps=2, tokens=X0S, **how):
    how = dict(alpha=alpha) | HOW | how
    return likelihood.confidence_likelihood(denoiser(table()), tokens, steps, **how)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("T", [1.0, 0.7])
@pytest.mark.parametrize("time", [False, True])
def test_the_comb(steps, T, time):
    net, tables = denoiser(table()), [table()] * steps
    if time:
        net, tables = timed(), [timed_table(0.2 + 0.8 * k / steps) for k in range(steps)]
    how = dict(alpha=hosts, temperature=T) | HOW
    found = likelihood.comb_likelihood(net, X0S, steps, **how)
    patterns = lattice_patterns(chain.levels_of(linear, steps), 1 / steps, points=12)
    for x0, nats in zip(X0S.tolist(), found.nats.tolist(), strict=True):
        p = sum(q * math.exp(log_p(tables, x0, o, [T] * steps)) for o, q in patterns.items())
        assert nats == pytest.approx(-math.log(p), rel=1e-9)
    assert (-found.nats).exp().sum() == pytest.approx(1.0)
    assert found.tokens.tolist() == [LENGTH] * len(X0S)


def by_certainty(logits, steps, T, threshold=None):
    """The law of `confidence`, path by path: which tokens open is known."""
    law, levels = {EMPTY: 1.0}, chain.levels_of(alpha, steps, "uniform")
    for step in range(steps):
        following: dict = {}
        for z, mass in law.items():
            left = [i for i in range(LENGTH) if z[i] == MASK]
            p = {i: chances(logits[z][i], T) for i in left}
            count = math.floor(LENGTH * levels[step + 1] + 0.5) - (LENGTH - len(left))
            count = min(1, len(left)) if threshold else count
            count = len(left) if step == steps - 1 else count
            first = sorted(left, key=lambda i: -max(p[i]))
            opens = first[:count] + [i for i in first[count:] if max(p[i]) >= (threshold or 2)]
            states = {z: mass}
            for i in opens:
                states = {
                    (*s[:i], v, *s[i + 1 :]): m * p[i][v]
                    for s, m in states.items()
                    for v in range(MASK)
                }
            for s, m in states.items():
                following[s] = following.get(s, 0.0) + m
        law = following
    return law


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("T", [1.0, 0.7])
@pytest.mark.parametrize("threshold", [None, 0.6])
def test_confidence(steps, T, threshold):
    how = dict(temperature=T, threshold=threshold, schedule="uniform")
    found = of_confidence(steps, **how)
    law = by_certainty(table(), steps, T, threshold)
    expected = torch.tensor([law[tuple(x0)] for x0 in X0S.tolist()]).double()
    torch.testing.assert_close((-found.nats).exp(), expected)
    assert (-found.nats).exp().sum() == pytest.approx(1.0)
    if steps == 2:
        assert_law(draw("confidence", steps, **how), law)


@pytest.mark.parametrize(
    "how",
    [
        dict(block=2),
        dict(threshold=0.4, block=2),
        dict(threshold=0.4, max_tokens=1),
        dict(threshold=0.4, spacing=1),
        dict(spacing=3, score="margin"),
        dict(threshold=0.5, block=2, max_tokens=1, spacing=2, score="entropy"),
    ],
)
def test_confidence_with_its_options_is_the_law_of_its_draws(how):
    p = (-of_confidence(**how).nats).exp().tolist()
    law = dict(zip(map(tuple, X0S.tolist()), p, strict=True))
    assert_law(draw("confidence", 2, n=20_000, **how), law)


def test_a_probability_below_the_smallest_number_has_a_likelihood():
    """Near greedy most tokens' underflow; their logarithms do not."""
    found = of_confidence(steps=LENGTH, temperature=1e-4).nats
    assert found.isfinite().all() and found.min() >= 0 and found.max() > 1000


def test_where_scores_tie_it_is_of_a_drawn_order_and_their_mean_is_the_law():
    """All places of an empty sequence do, but for rounding, to a network of rotary positions."""
    logits, times = table().float(), 60
    logits[EMPTY] = logits[EMPTY][0] * (1 + 1e-6 * torch.rand(LENGTH, 1, generator=generator()))
    how = dict(alpha=alpha, mask_index=MASK, batch_size=len(X0S) * times)
    found = likelihood.confidence_likelihood(
        denoiser(logits), X0S.repeat_interleave(times, 0), LENGTH, **how
    )
    law = {}
    for x0, nats in zip(X0S.tolist(), found.nats.view(-1, times), strict=True):
        orders = (-nats).exp().mul(1e6).round().unique() / 1e6  # by which place is first
        assert len(orders) == LENGTH
        law[tuple(x0)] = float(orders.mean())
        assert float(nats.mean()) > -math.log(law[tuple(x0)])  # a bound
    total = sum(law.values())
    assert total == pytest.approx(1.0, abs=1e-4)
    drawn = draw("confidence", LENGTH, logits=logits, n=20_000)
    assert_law(drawn, {x0: p / total for x0, p in law.items()})


@pytest.mark.parametrize(
    "how, words",
    [
        ({"score": "drawn"}, "score=drawn"),
        ({"score": "raw"}, "score=raw"),
        ({"score_noise": 1.0}, "noise=1.0"),
        ({"eos_after": 0.5, "eos_index": 1}, "eos_after=0.5"),
        ({"tokens": X0S * 0 + MASK}, f"mask_index={MASK}"),
    ],
)
def test_refusals(how, words):
    with pytest.raises(ConfigError, match=words):
        of_confidence(**how)
    with pytest.raises(ConfigError, match="unequal shares"):
        likelihood.comb_likelihood(denoiser(table()), X0S, 2, alpha=cosine, **HOW)
