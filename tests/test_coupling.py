"""Eq. 13, the coupled pair, and the laws of u."""

import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlm_mcd import coupling
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.models.noise import Cosine, LogLinear

MASK = 7
LAWS = [("iid", None), ("lattice", None), ("lattice", 1 / 8), ("lattice", 1.7)]


def log_linear(t):
    return LogLinear(1e-3)(t)[1]


def cosine(t):
    return Cosine(1e-3)(t)[1]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tokens(batch, length):
    return torch.randint(0, MASK, (batch, length), generator=generator())


@pytest.mark.parametrize("alpha", [log_linear, cosine])
@pytest.mark.parametrize("law,step", LAWS)
@settings(max_examples=25, deadline=None)
@given(delta=st.floats(0, 1, exclude_min=True, exclude_max=True), seed=st.integers(0, 2**32))
def test_pair_is_nested(alpha, law, step, delta, seed):
    g = generator(seed)
    x0 = tokens(6, 11)
    t, s = coupling.sample_times(6, delta, generator=g)
    assert (s >= 0).all() and (t <= 1).all() and (t >= delta).all()
    u = coupling.draw_u(6, 11, law, step=step, generator=g)
    pair = coupling.couple(x0, u, t, s, alpha, MASK)
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


def test_any_rows_of_a_batch_have_all_times():
    """A process, a micro-batch, an epoch's last step of a few rows: each has t ~ U(delta, 1]."""
    t = [coupling.sample_times(8, 0.2, generator=generator(seed))[0] for seed in range(400)]
    for place in (0, 7):
        law = scipy.stats.uniform(0.2, 0.8)
        assert scipy.stats.kstest(torch.stack(t)[:, place].numpy(), law.cdf).pvalue > 1e-3


def test_ablations_of_the_coupling():
    g = generator()
    x0, u, other = tokens(200, 30), torch.rand(200, 30), torch.rand(200, 30)
    t, s = coupling.sample_times(200, 0.3, generator=g)
    args = (x0, u, other, t, s, log_linear, MASK)
    shared = coupling.couple_as("shared", *args)
    independent = coupling.couple_as("independent", *args)
    none = coupling.couple_as("none", *args)
    assert torch.equal(shared.z_s, coupling.couple(x0, u, t, s, log_linear, MASK).z_s)
    assert torch.equal(independent.z_t, shared.z_t)
    # Without a common trajectory some tokens are masked for the teacher alone ...
    assert (independent.masked_s & ~independent.masked_t).any()
    # ... though its marginal is the same.
    share = independent.masked_s.float().mean() - shared.masked_s.float().mean()
    assert abs(share) < 0.03
    assert torch.equal(none.z_s, none.z_t) and torch.equal(none.z_t, shared.z_t)


def test_shared_u_has_the_law_of_the_forward_chain():
    """The pair is q(z_s, z_t | x0): exact probabilities of its three outcomes."""
    u = coupling.draw_u(200_000, 1, generator=generator())
    x0, t = torch.zeros(200_000, 1, dtype=torch.long), torch.full((200_000,), 0.7)
    pair = coupling.couple(x0, u, t, t - 0.15, lambda t: 1 - t, MASK)
    shares = [(~pair.masked_t), (pair.masked_t & ~pair.masked_s), pair.masked_s]
    for share, expected in zip(shares, (0.3, 0.15, 0.55), strict=True):
        assert abs(share.float().mean() - expected) < 0.005


@pytest.mark.parametrize("antithetic", [True, False])
def test_nested_times_use_the_whole_range_of_gaps(antithetic):
    t, s = coupling.sample_nested_times(4000, generator=generator(), antithetic=antithetic)
    assert t.dtype == s.dtype == torch.float64
    assert (0 < s).all() and (s <= t).all() and (t <= 1).all()
    for share in (t, s / t, (s / t)[t > 0.9]):  # uniform, whatever t
        assert scipy.stats.kstest(share.numpy(), "uniform").pvalue > 1e-3


@given(
    length=st.integers(1, 40),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    law=st.sampled_from(LAWS),
    seed=st.integers(0, 2**32),
)
def test_exact_counts(length, shares, law, seed):
    """The tokens of the largest u, and never those that are no token of the text."""
    g, (high, low) = generator(seed), sorted(shares, reverse=True)
    x0, u = tokens(5, length), coupling.draw_u(5, length, law[0], step=law[1], generator=g)
    valid = torch.rand(5, length, generator=g) < 0.7
    u[:, 0] = 0.0  # visible at every time
    pair = coupling.couple_counts(x0, u, valid, *(torch.full((5,), x) for x in (high, low)), MASK)
    for row in range(5):
        open_to = [i for i in range(1, length) if valid[row, i]]
        open_to.sort(key=lambda i: -u[row, i])
        for share, z, masked in ((high, pair.z_t, pair.masked_t), (low, pair.z_s, pair.masked_s)):
            chosen = open_to[: int(torch.tensor(share) * len(open_to))]
            assert masked[row].nonzero().flatten().tolist() == sorted(chosen)
            assert torch.equal(z[row], torch.where(masked[row], MASK, x0[row]))


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
