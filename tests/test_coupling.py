"""Eq. 13, the coupled pair, and the laws of u."""

import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlm_mcd import coupling
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.models.noise import NOISES

MASK = 7
LAWS = [("iid", None), ("lattice", None), ("lattice", 1 / 8), ("lattice", 1.7)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tokens(batch, length):
    return torch.randint(0, MASK, (batch, length), generator=generator())


@pytest.mark.parametrize("noise", list(NOISES.values()))
@pytest.mark.parametrize("law,step", LAWS)
@settings(max_examples=25, deadline=None)
@given(delta=st.floats(0, 1, exclude_min=True, exclude_max=True), seed=st.integers(0, 2**32))
def test_pair_is_nested(noise, law, step, delta, seed):
    g = generator(seed)
    x0 = tokens(6, 11)
    t, s = coupling.sample_times(6, delta, generator=g)
    assert (s >= 0).all() and (t <= 1).all() and (t >= delta).all()
    u = coupling.draw_u(6, 11, law, step=step, generator=g)
    pair = coupling.couple(x0, u, t, s, lambda time: noise(1e-3)(time)[1], MASK)
    assert not (pair.masked_s & ~pair.masked_t).any()
    assert torch.equal(pair.z_t == MASK, pair.masked_t)
    assert torch.equal(pair.z_s[~pair.masked_s], x0[~pair.masked_s])
    # z_s shows a superset of z_t: what is visible at t is the same at s.
    visible = ~pair.masked_t
    assert torch.equal(pair.z_s[visible], pair.z_t[visible])


def test_mask_is_eq_13_at_the_threshold():
    # e_K if u > gamma_t, x0 otherwise: equality keeps the token.
    x0 = torch.tensor([[1, 2, 3]])
    u = torch.tensor([[0.4, 0.5, 0.6]])
    assert coupling.mask(x0, u, torch.tensor([[0.5]]), MASK).tolist() == [[1, 2, MASK]]


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("delta", [1 / 512, 0.25, 0.9])
def test_times_are_uniform_on_delta_to_one(antithetic, delta):
    t, s = coupling.sample_times(5000, delta, generator=generator(1), antithetic=antithetic)
    assert t.dtype == torch.float64 and t.shape == s.shape == (5000,)
    assert (t > delta).all() and (t <= 1).all() and (s >= 0).all()
    torch.testing.assert_close(t - s, torch.full_like(t, delta), atol=1e-12, rtol=0)
    law = scipy.stats.uniform(delta, 1 - delta)
    assert scipy.stats.kstest(t.numpy(), law.cdf).pvalue > 1e-3
    if antithetic:
        strata = ((1 - t) / (1 - delta) * 5000 + 1e-6).floor().long()
        assert len(set(strata.tolist())) > 4990


@pytest.mark.parametrize("antithetic", [True, False])
def test_nested_times_use_the_whole_range_of_gaps(antithetic):
    t, s = coupling.sample_nested_times(4000, generator=generator(), antithetic=antithetic)
    assert t.dtype == s.dtype == torch.float64
    assert (0 < s).all() and (s <= t).all() and (t <= 1).all()
    for share in (t, s / t, (s / t)[t > 0.9]):  # uniform, whatever t
        assert scipy.stats.kstest(share.numpy(), "uniform").pvalue > 1e-3


def test_counter_generator_is_a_function_of_its_counters():
    def draw(*counters):
        return torch.rand(4, generator=coupling.counter_generator(*counters)).tolist()

    assert draw(1, 2, "u") == draw(1, 2, "u")
    streams = {tuple(draw(*c)) for c in ((1, 2), (2, 1), (1, 2, 0), (12,), (1, 3))}
    assert len(streams) == 5


def test_refusals():
    for delta in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(ConfigError, match="delta0"):
            coupling.sample_times(3, delta)
    with pytest.raises(ConfigError, match="algo.coupling=both is unknown.*independent"):
        coupling.couple_as("both", *[None] * 7)
