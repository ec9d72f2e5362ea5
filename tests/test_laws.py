"""The joint laws of u: marginals, shares, orders, and a step fitted to a corpus."""

import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlm_mcd import laws
from mdlm_mcd.errors import ConfigError

LAWS = [("iid", None), ("lattice", None), ("lattice", 0.3), ("halton", None), ("dilated", 3)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def u_of(law, step, batch, length, seed=0, **how):
    return laws.draw_u(
        batch, length, law, step=step, generator=generator(seed), dtype=torch.float64, **how
    )


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("law,step", LAWS)
def test_each_u_is_uniform(law, step, stratified):
    u = u_of(law, step, 4000, 23, stratified=stratified)
    assert u.shape == (4000, 23) and 0 <= u.min() and u.max() <= 1
    for position in (0, 1, 7, 22):
        # Sequences are independent: 4000 draws of one position's marginal.
        assert scipy.stats.kstest(u[:, position].numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("law,step", LAWS)
@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 70), steps=st.integers(1, 80), seed=st.integers(0, 2**32))
def test_stratified_steps_open_their_exact_share(law, step, length, steps, seed):
    u = u_of(law, step, 5, length, seed, stratified=True)
    bounds = torch.arange(1, steps) / steps
    step_of = torch.bucketize(u, bounds.double())
    counts = torch.nn.functional.one_hot(step_of, steps).sum(1)
    share = length / steps
    assert ((counts == math.floor(share)) | (counts == math.ceil(share))).all()


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("law,step", LAWS)
@settings(max_examples=25)
@given(length=st.integers(1, 40), share=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_a_law_is_over_the_free_tokens_alone(law, step, stratified, length, share, seed):
    """Each row's own: it has the law that as many tokens without a context have."""
    free = torch.rand(3, length, generator=generator(seed + 1)) < share
    u = u_of(law, step, 3, length, seed, stratified=stratified, free=free)
    assert (u[~free] == 0).all() and u.shape == (3, length)
    if free.all() or (law == "iid" and not stratified):  # each u stays where it is
        assert torch.equal(u[free], u_of(law, step, 3, length, seed, stratified=stratified)[free])
        return
    how = dict(step=step, stratified=stratified, generator=generator(seed), dtype=torch.float64)
    for row, places in zip(u, free, strict=True):
        if count := int(places.sum()):
            assert torch.equal(row[places], laws.draw_u(1, count, law, **how)[0])


@pytest.mark.parametrize("stratified", [False, True])
def test_a_comb_keeps_neighbours_apart(stratified):
    """8 steps of step 1/8: no two tokens of one step are closer than 7."""
    u = u_of("lattice", 1 / 8, 200, 64, stratified=stratified)
    step_of = (u * 8).floor().clamp(max=7)
    for lag in range(1, 7):
        assert (step_of[:, lag:] != step_of[:, :-lag]).all()
    assert (step_of[:, 8:] == step_of[:, :-8]).float().mean() > 0.7  # where it fails
    forward = ((u[:, 1] - u[:, 0]) % 1 - 1 / 8).abs() < 0.02
    assert 0.3 < forward.float().mean() < 0.7  # half of the sequences are reflected


def spread(ranks, n):
    """Smallest and largest circular gap between the first n positions of each order."""
    length = ranks.shape[-1]
    chosen = (ranks < n).nonzero()[:, 1].view(-1, n)
    gaps = chosen.diff(dim=-1, append=chosen[:, :1] + length)
    return int(gaps.min()), int(gaps.max())


@pytest.mark.parametrize("law", ["halton", "dilated"])
@pytest.mark.parametrize("base", [2, 3])
def test_orders_are_permutations_that_spread(law, base):
    length = base**4
    u = u_of(law, base, 40, length)
    ranks = (u * length).floor().long()
    assert torch.equal(ranks.sort(-1).values, torch.arange(length).expand(40, -1))
    for n in (base, base**2, base**3):
        assert spread(ranks, n) == (length // n, length // n)
    assert len({tuple(r) for r in ranks.tolist()}) > 10  # begun at random places


def test_the_published_orders():
    """Bit-reversed; in rounds whose gaps shrink, of 50 tokens by 25, 12, 6, 3, 1."""
    assert laws.halton_order(8).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]
    ranks = laws.halton_order(64)[None]
    for least, most in (spread(ranks, n) for n in range(1, 65)):
        assert most <= 4 * max(1, least)
    assert sorted(laws.halton_order(50, 3).tolist()) == list(range(50))
    assert laws.dilated_levels(8).tolist() == [0, 2, 1, 2, 0, 2, 1, 2]
    assert laws.dilated_levels(9, 3).tolist() == [0, 1, 1, 0, 1, 1, 0, 1, 1]
    assert laws.dilated_levels(1).tolist() == [0]
    assert laws.dilated_levels(50).bincount().tolist() == [2, 4, 4, 8, 32]


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_levels(steps):
    for schedule in ("uniform", "cosine", list(range(1, steps + 1))):
        levels = torch.tensor(laws.levels(schedule, steps))
        assert len(levels) == steps + 1 and levels[0] == 0 and levels[-1] == 1
        assert (levels.diff() > 0).all()
    assert laws.levels([1, 3], 2) == [0, 0.25, 1]
    assert laws.levels([1, 0, 0, 3], 4) == [0, 0.25, 0.25, 0.25, 1]
    cosine = torch.tensor(laws.levels("cosine", 8))
    assert (cosine.diff().diff() > 0).all()  # few first


# A step fitted to a corpus --------------------------------------------------------


def text_with_dependence(lag, rows=400, length=60, kinds=6, strength=0.8):
    """Each token copies the one `lag` before it with a chance, else is uniform."""
    g = generator(4)
    x = torch.randint(kinds, (rows, length), generator=g)
    copies = torch.rand(rows, length, generator=g) < strength
    for i in range(lag, length):
        x[:, i] = torch.where(copies[:, i], x[:, i - lag], x[:, i])
    return x


def test_mutual_information_finds_the_lag():
    x = text_with_dependence(5)
    information = laws.mutual_information(x, 12, generator=generator())
    # Of a symmetric channel that copies with chance 0.8 among 6 kinds.
    hit, miss = 0.8 + 0.2 / 6, 0.2 / 6
    exact = math.log(6) + hit * math.log(hit) + 5 * miss * math.log(miss)
    assert information[4] == pytest.approx(exact, rel=0.03)
    others = [k for k in range(12) if k not in (4, 9)]
    assert information[others].max() < 0.01
    assert laws.mutual_information(x).shape == (59,)


def test_mutual_information_takes_rare_tokens_as_one():
    x = torch.randint(40, (200, 61), generator=generator()) ** 2 // 50
    rare = (x != x.flatten().mode().values).long()
    one = laws.mutual_information(x, 3, kept=1, generator=generator())
    assert torch.allclose(one, laws.mutual_information(rare, 3, generator=generator()))


def test_mutual_information_of_noise_over_many_tokens_is_nothing():
    """Plug-in alone would say half a nat: 256 x 256 pairs out of 60,000."""
    x = torch.randint(1000, (1000, 61), generator=generator())
    assert laws.mutual_information(x, 3, generator=generator()).max() < 0.02


@pytest.mark.parametrize("step", [laws.GOLDEN, 1 / 8, 0.123, 0.5, -1 / 4])
def test_chance_of_opening_together(step):
    levels = laws.levels([1, 2, 2, 5], 4)
    shares, lags = torch.tensor(levels).double().diff(), torch.tensor([1, 2, 3, 8])
    exact = laws.together(step, lags, shares)
    u = u_of("lattice", step, 40_000, 9)
    step_of = torch.bucketize(u, torch.tensor(levels[1:-1]).double())
    seen = (step_of[:, lags] == step_of[:, :1]).double().mean(0)
    assert (seen - exact).abs().max() < 0.015


def test_the_fitted_step_avoids_the_corpus_own_lag():
    def cost(step, table):
        shares = torch.full((8,), 1 / 8, dtype=torch.float64)
        return laws.expected_information(step, table, 64, shares)

    near = torch.tensor([0.8, 0.4, 0.2, 0.1, 0.05, 0.02, 0.01])
    assert laws.fit_step(near, 64, 8) == 1 / 8  # falls with distance: the comb
    # A table 8 tokens wide: the comb 1/8 opens its columns at once.
    table = torch.zeros(32)
    table[:3], table[7::8] = torch.tensor([0.3, 0.1, 0.05]), 0.8
    fitted = laws.fit_step(table, 64, 8)
    assert cost(fitted, table) < 0.5 * cost(None, table) < cost(1 / 8, table)
    assert cost(fitted, table) < cost(laws.GOLDEN, table)
    # Golden fails at a Fibonacci lag.
    fibonacci = torch.zeros(32)
    fibonacci[20] = 1.0
    assert cost(laws.GOLDEN, fibonacci) > 4 * cost(None, fibonacci) > cost(1 / 8, fibonacci) == 0
    for steps in ([4, 8, 16], (2,)):
        assert 0 < laws.fit_step(near, 64, steps, schedule="cosine", grid=64) < 1


def draw(law, step):
    return lambda: laws.draw_u(2, 3, law, step=step)


@pytest.mark.parametrize(
    "call, words",
    [
        (draw("grid", None), "^algo.u_law=grid is unknown: choose one of iid, lattice"),
        (
            draw("lattice", "auto"),
            "^algo.u_step=auto must be a number like 1/8 .* algo.u_law=lattice",
        ),
        (draw("lattice", 8), "algo.u_step=8 must be a number like 1/8 and no whole one"),
        (draw("iid", 0.5), "algo.u_step=0.5 must be null, with algo.u_law=iid"),
        (draw("halton", 0.125), "algo.u_step=0.125 must be a base"),
        *(
            (lambda schedule=schedule: laws.levels(schedule, 3), "schedule=")
            for schedule in ("sine", [1, 2], [1, -1, 1], [0, 1, 1])
        ),
        (lambda: laws.mutual_information(torch.zeros(2, 61).long(), 61), "max_lag=61"),
        (lambda: laws.levels("uniform", 0), "steps=0"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ConfigError, match=words):
        call()
