"""The bounds against enumeration of every opening pattern, and of every time."""

import itertools
import math

import pytest
import torch
from enumeration import (
    LENGTH,
    MASK,
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

from mdlm_mcd import coupling
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import bounds
from mdlm_mcd.sampling import chain

X0S = torch.tensor(list(itertools.product(range(MASK), repeat=LENGTH)))
LAWS = [("iid", None), ("lattice", 0.25), ("lattice", coupling.GOLDEN)]


def linear(t):
    return 1 - t


def cosine(t):
    return 1 - torch.cos(math.pi / 2 * (1 - t))


def unit(t):
    """The linear schedule as `nelbo_rows` takes it."""
    return -torch.ones_like(t), 1 - t


def bound(denoise, tokens=X0S, steps=2, **changes):
    how = dict(alpha=linear, mask_index=MASK, batch_size=5000) | changes
    return bounds.n_step_nelbo(denoise, tokens, steps, **how)


def log_p(tables, x0, order, temperatures):
    """Log of prod_k prod_{i opens at k} p(x0_i | opened before), by hand."""
    total = 0.0
    for i, k in enumerate(order):
        z = tuple(x if o < k else MASK for x, o in zip(x0, order, strict=True))
        total += math.log(chances(tables[k][z][i], temperatures[k])[x0[i]])
    return total


def iid_patterns(levels):
    """{opening steps: chance} for independent u."""
    share = [b - a for a, b in itertools.pairwise(levels)]
    orders = itertools.product(range(len(share)), repeat=LENGTH)
    return {order: math.prod(share[k] for k in order) for order in orders}


def lattice_patterns(levels, step, points=3000):
    """The same for a lattice, by a fine grid of shifts and both directions."""
    out: dict = {}
    for shift, flip in itertools.product(range(points), (False, True)):
        us = [((shift + 0.5) / points + i * step) % 1 for i in range(LENGTH)]
        order = tuple(sum((1 - u if flip else u) >= end for end in levels[1:-1]) for u in us)
        out[order] = out.get(order, 0.0) + 0.5 / points
    return out


def patterns_of(law, step, levels):
    return iid_patterns(levels) if law == "iid" else lattice_patterns(levels, step)


@pytest.mark.parametrize("law, step", LAWS)
def test_what_is_bounded_is_the_samplers_likelihood(law, step):
    """Draws follow the mean over patterns of the product over steps, at a T by step."""
    logits, at = table(), [1.3, 1.3 - 0.8 / 2, 0.5]
    patterns = patterns_of(law, step, chain.levels_of(linear, 3))
    laws = {
        tuple(x0): sum(q * math.exp(log_p([logits] * 3, x0, o, at)) for o, q in patterns.items())
        for x0 in X0S.tolist()
    }
    how = dict(n=20_000, alpha=linear, temperature=(1.3, 0.5))
    if law == "iid":
        assert_law(draw("ancestral", 3, **how), laws)
    assert_law(draw("sparse", 3, u_law=law, u_step=step, **how), laws)


@pytest.mark.parametrize("alpha", [linear, cosine])
def test_for_iid_u_it_is_the_bound_of_d3pm_at_as_many_times(alpha):
    """L_0 and L_1 ... L_{N-1} of Austin et al. 2021, from their posteriors; L_N is 0."""
    logits, N = table(), 4
    alphas = alpha(torch.linspace(0, 1, N + 1, dtype=torch.float64)).tolist()
    patterns = iid_patterns(chain.levels_of(alpha, N))
    for x0 in X0S.tolist()[::5]:
        total = 0.0
        for t in range(1, N + 1):
            stays, opens = alphas[t], (alphas[t - 1] - alphas[t]) / (1 - alphas[t])
            for hidden in itertools.product((False, True), repeat=LENGTH):
                z = tuple(MASK if h else x for h, x in zip(hidden, x0, strict=True))
                chance = math.prod(1 - stays if h else stays for h in hidden)
                for i in (i for i in range(LENGTH) if hidden[i]):
                    p = opens * chances(logits[z][i])[x0[i]]  # of x0_i; the mask's cancels
                    total += chance * (opens * math.log(opens / p))
        mean = sum(q * log_p([logits] * N, x0, o, [1.0] * N) for o, q in patterns.items())
        assert total == pytest.approx(-mean)


def is_the_mean(found, draws, patterns, logs_of):
    """Each row's nats are the mean over patterns, by four standard errors: a bound."""
    for x0, nats in zip(X0S.tolist(), found.nats.view(-1, draws).mean(-1).tolist(), strict=True):
        logs = {order: logs_of(x0, order) for order in patterns}
        mean = -sum(q * logs[o] for o, q in patterns.items())
        var = sum(q * (logs[o] + mean) ** 2 for o, q in patterns.items())
        assert abs(nats - mean) <= 4 * (var / draws) ** 0.5 + 1e-3  # the quadrature's
        p = sum(q * math.exp(logs[o]) for o, q in patterns.items())
        assert mean >= -math.log(p) - 1e-9 and (len(patterns) > 1 or mean <= -math.log(p) + 1e-9)


@pytest.mark.parametrize("law, step", LAWS)
@pytest.mark.parametrize("steps, alpha, T", [(1, linear, 1.0), (4, cosine, 0.7), (3, hosts, 1.0)])
def test_its_mean_is_the_sum_over_patterns(law, step, steps, alpha, T):
    logits, draws, levels = table(), 2000, chain.levels_of(alpha, steps)
    how = dict(alpha=alpha, u_law=law, u_step=step, temperature=T, generator=generator(3))
    found = bound(denoiser(logits), X0S.repeat_interleave(draws, 0), steps, **how)
    patterns = patterns_of(law, step, levels)
    tables, temperatures = [logits] * steps, [T] * steps
    is_the_mean(found, draws, patterns, lambda x, o: log_p(tables, x, o, temperatures))


@pytest.mark.parametrize("temperature", [(1.0, 0.5), lambda fraction: 1.0 - fraction / 2])
def test_shares_and_temperatures_of_ones_own_at_the_steps_times(temperature):
    """A time-conditioned network, shares by step, and a T that falls with them."""
    shares, levels, draws = [0.5, 0.1, 0.4], [0.0, 0.5, 0.6, 1.0], 2000
    tables = [timed_table(0.2 + 0.8 * level) for level in levels[:-1]]
    how = dict(alpha=hosts, schedule=shares, temperature=temperature, generator=generator(4))
    found = bound(timed(), X0S.repeat_interleave(draws, 0), 3, **how)
    temperatures = [1.0, 1 - 0.5 / 0.6 / 2, 0.5]
    patterns = iid_patterns(levels)
    is_the_mean(found, draws, patterns, lambda x, o: log_p(tables, x, o, temperatures))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_each_row_of_the_nelbo_is_asked_at_its_own_time(temperature, monkeypatch):
    monkeypatch.setattr(bounds, "PROJECTED", 10)
    how = dict(generator=generator(4), eps=0.01, batch_size=20, temperature=temperature)
    got = bounds.nelbo_rows(
        timed(), lambda t: (torch.full_like(t, -0.8), hosts(t)), X0S, MASK, **how
    )
    rows, g = len(X0S), generator(4)
    alphas = hosts(0.01 + 0.99 * (torch.rand(rows, generator=g) + torch.arange(rows)) / rows)
    masked = torch.rand(X0S.shape, generator=g) > alphas[:, None]
    for x0, m, a, found in zip(*(x.tolist() for x in (X0S, masked, alphas, got.nats)), strict=True):
        logits = timed_table(a)[tuple(MASK if hides else x for hides, x in zip(m, x0, strict=True))]
        logs = [math.log(chances(logits[i], temperature)[x0[i]]) for i in range(LENGTH) if m[i]]
        assert found == pytest.approx(-sum(logs) * 0.8 / (1 - a), rel=1e-5)


def test_it_converges_to_the_continuous_time_nelbo():
    """Mean over orders of one token at a time; both estimates, and enumeration."""
    logits, x0 = table(5), (0, 1, 1)
    orders = list(itertools.permutations(range(LENGTH)))
    limit = -sum(log_p([logits] * 3, x0, o, [1.0] * 3) for o in orders) / len(orders) / LENGTH
    tokens, how = torch.tensor([x0]).repeat(20_000, 1), dict(batch_size=20_000)
    few, many = (
        bound(denoiser(logits), tokens, n, generator=generator(1), **how).value for n in (4, 500)
    )
    how |= dict(generator=generator(0), eps=1e-6)
    ever = bounds.nelbo_rows(denoiser(logits), unit, tokens, MASK, **how)
    assert abs(few - limit) > 0.04  # so what follows tells 4 steps from 500
    assert many == pytest.approx(limit, abs=0.02) and ever.value == pytest.approx(limit, abs=0.02)


def test_passes_are_counted_and_batches_change_nothing(monkeypatch):
    tokens, results = X0S.repeat(3, 1), []
    for batch_size, most in ((1, 8192), (7, 8192), (100, 8192), (100, 5)):
        monkeypatch.setattr(bounds, "PROJECTED", most)
        calls: list[int] = []
        how = dict(batch_size=batch_size, generator=generator(5))
        found = bound(denoiser(table(), calls), tokens, **how)
        endless = bounds.nelbo_rows(denoiser(table()), unit, tokens, MASK, **how)
        results.append(torch.stack((found.nats, endless.nats)))
        assert sum(calls) <= 2 * len(tokens)
        assert most > 5 or max(calls) * LENGTH <= 5 * LENGTH
    for other in results[1:]:
        torch.testing.assert_close(results[0][0], other[0], atol=1e-12, rtol=0)
    assert found.value == pytest.approx(float(found.nats.sum()) / tokens.numel())


NAN = table()
NAN[MASK, MASK, MASK] = float("nan")


@pytest.mark.parametrize(
    "tokens, steps, change, words",
    [
        (X0S, 0, {}, "steps=0"),
        (X0S, 2, {"temperature": 0.0}, "temperature=0.0"),
        (X0S, 2, {"schedule": [0.0, 1.0]}, "schedule"),
        (X0S, 2, {"u_law": "comb"}, "algo.u_law=comb"),
        (X0S + 1, 2, {}, f"hold mask_index={MASK}"),
        (X0S, 1, {"denoise": denoiser(NAN)}, "N-step NELBO of sample 0 is nan"),
    ],
)
def test_what_cannot_be_bounded_is_refused(tokens, steps, change, words):
    with pytest.raises(ConfigError) as caught:
        bound(**{"denoise": denoiser(table()), "tokens": tokens, "steps": steps, **change})
    assert words in str(caught.value)


def test_held_out_text_with_masks_is_refused():
    def denoise(z, rows):
        return torch.zeros(int(rows.sum()), 4)

    def noise(t):
        return -torch.ones_like(t), 1 - t

    with pytest.raises(ConfigError, match="hold mask_index=3"):
        bounds.nelbo_rows(denoise, noise, torch.tensor([[0, 3]]), 3)
