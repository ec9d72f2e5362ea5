"""The N-step NELBO against enumeration of every opening pattern."""

import itertools
import math

import pytest
import torch

from mdlm_mcd import coupling, sampling
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import bounds

VOCAB, MASK, LENGTH = 3, 2, 3


def linear(t):
    return 1 - t


def hosts(t):
    """Not 0 at t = 1, as in the hosts, and by far more."""
    return 1 - 0.8 * t


def cosine(t):
    return 1 - torch.cos(math.pi / 2 * (1 - t))


def table(seed=0, scale=1.5):
    """A denoiser that is a table: logits for each state and position."""
    g = torch.Generator().manual_seed(seed)
    shape = (VOCAB,) * LENGTH + (LENGTH, VOCAB)
    return scale * torch.randn(shape, generator=g, dtype=torch.float64)


def denoiser(logits, calls=None):
    def denoise(z, rows):
        if calls is not None:
            calls.append(len(z))
        return logits[tuple(z.T)][rows].clone()

    return denoise


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def bound(denoise, tokens=None, steps=2, **changes):
    how = dict(alpha=linear, mask_index=MASK, batch_size=5000) | changes
    return bounds.n_step_nelbo(denoise, X0S if tokens is None else tokens, steps, **how)


def unit(t):
    """The linear schedule as `nelbo_rows` takes it."""
    return -torch.ones_like(t), 1 - t


def log_p(logits, x0, order, temperature=1.0, only=None):
    """Log of prod_k prod_{i opens at k} p(x0_i | opened before), by hand."""
    total = 0.0
    for k in set(order) if only is None else [only]:
        z = tuple(x if o < k else MASK for x, o in zip(x0, order, strict=True))
        for i, o in enumerate(order):
            if o == k:
                p = (logits[z][i][:MASK] / temperature).softmax(-1)
                total += math.log(p[x0[i]])
    return total


def level_shares(alpha, steps):
    """The chance of a token to open at each step."""
    alphas = alpha(torch.linspace(1, 0, steps + 1, dtype=torch.float64)).tolist()
    alphas = [(a - alphas[0]) / (1 - alphas[0]) for a in alphas[:-1]] + [1.0]
    return [b - a for a, b in itertools.pairwise(alphas)]


def iid_patterns(alpha, steps, share=None):
    """{opening steps: chance} for independent u, by the schedule's shares."""
    share = share or level_shares(alpha, steps)
    orders = itertools.product(range(steps), repeat=LENGTH)
    return {order: math.prod(share[k] for k in order) for order in orders}


def lattice_patterns(alpha, steps, step, points=3000):
    """The same for a lattice, by a fine grid of shifts and both directions."""
    ends = list(itertools.accumulate(level_shares(alpha, steps)))[:-1]
    out: dict = {}
    for shift, flip in itertools.product(range(points), (False, True)):
        us = [((shift + 0.5) / points + i * step) % 1 for i in range(LENGTH)]
        order = tuple(sum((1 - u if flip else u) >= end for end in ends) for u in us)
        out[order] = out.get(order, 0.0) + 0.5 / points
    return out


def ranks(patterns):
    """Patterns of the same order merged: only who opens before whom matters."""
    out: dict = {}
    for order, chance in patterns.items():
        levels = sorted(set(order))
        rank = tuple(map(levels.index, order))
        out[rank] = out.get(rank, 0.0) + chance
    return out


def exact(logits, x0, patterns, temperature=1.0):
    """(-log p_N(x0), the exact expectation of the bound), in nats."""
    patterns = ranks(patterns)
    logs = {o: log_p(logits, x0, o, temperature) for o in patterns}
    p = sum(q * math.exp(logs[o]) for o, q in patterns.items())
    return -math.log(p), -sum(q * logs[o] for o, q in patterns.items())


X0S = torch.tensor(list(itertools.product(range(MASK), repeat=LENGTH)))
LAWS = [("iid", None), ("lattice", 0.25), ("lattice", coupling.GOLDEN)]


def patterns_of(law, step, alpha, steps):
    if law == "iid":
        return iid_patterns(alpha, steps)
    return lattice_patterns(alpha, steps, step)


@pytest.mark.parametrize("law,step", LAWS)
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("alpha", [linear, cosine, hosts])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_it_bounds_the_samplers_own_likelihood(law, step, steps, alpha, temperature):
    """And p_N, summed over every text, is a law: what is bounded is a likelihood."""
    logits, patterns = table(), patterns_of(law, step, alpha, steps)
    assert sum(patterns.values()) == pytest.approx(1)
    total = 0.0
    for x0 in X0S.tolist():
        nll, limit = exact(logits, x0, patterns, temperature)
        assert nll <= limit + 1e-12
        total += math.exp(-nll)
    assert total == pytest.approx(1)


def test_one_step_is_exact_and_more_are_not():
    """One step has one pattern, so Jensen loses nothing; two lose something."""
    gaps = []
    for steps in (1, 2):
        nll, limit = exact(table(), (0, 1, 0), iid_patterns(linear, steps))
        gaps.append(limit - nll)
    assert gaps[0] == pytest.approx(0, abs=1e-12) and gaps[1] > 1e-3


def is_the_mean(found, draws, patterns, logs_of, slack=0.0):
    """Each row's nats are the mean over patterns, by four standard errors."""
    for x0, nats in zip(X0S.tolist(), found.nats.tolist(), strict=True):
        logs = {order: logs_of(x0, order) for order in patterns}
        mean = -sum(q * logs[o] for o, q in patterns.items())
        var = sum(q * (logs[o] + mean) ** 2 for o, q in patterns.items())
        assert abs(nats - mean) <= 4 * (var / draws) ** 0.5 + slack


@pytest.mark.parametrize("law,step", LAWS)
@pytest.mark.parametrize("steps,alpha", [(1, linear), (2, cosine), (4, linear), (3, hosts)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_its_mean_is_the_sum_over_patterns(law, step, steps, alpha, temperature):
    logits = table()
    how = dict(alpha=alpha, u_law=law, u_step=step, temperature=temperature, draws=3000)
    found = bound(denoiser(logits), steps=steps, generator=seeded(3), **how)
    patterns = patterns_of(law, step, alpha, steps)
    # 1e-3 is the quadrature's and float32's.
    is_the_mean(found, 3000, patterns, lambda x, o: log_p(logits, x, o, temperature), slack=1e-3)


@pytest.mark.parametrize("alpha", [linear, hosts])
@pytest.mark.parametrize("name", ["sparse", "ancestral"])
def test_p_n_is_what_the_samplers_draw(name, alpha):
    """The likelihood that the bound bounds is the frequency of the samplers' draws."""
    n, steps, logits = 60_000, 3, table()
    drawn = sampling.sample(
        name,
        denoiser(logits),
        n,
        LENGTH,
        steps,
        alpha=alpha,
        mask_index=MASK,
        vocab_size=VOCAB,
        generator=seeded(0),
    ).tokens
    patterns = iid_patterns(alpha, steps)
    for x0 in X0S.tolist():
        p = math.exp(-exact(logits, x0, patterns)[0])
        seen = float((drawn == torch.tensor(x0)).all(-1).double().mean())
        assert abs(seen - p) < 4.5 * (p * (1 - p) / n) ** 0.5


def test_it_converges_to_the_continuous_time_nelbo():
    """Mean over orders of one token at a time; both estimates, and enumeration."""
    logits, x0 = table(5), (0, 1, 1)
    orders = list(itertools.permutations(range(LENGTH)))
    limit = -sum(log_p(logits, x0, o) for o in orders) / len(orders)
    gaps = [exact(logits, x0, iid_patterns(linear, n))[1] - limit for n in (8, 16, 32)]
    for coarse, fine in itertools.pairwise(gaps):
        assert 0.4 < fine / coarse < 0.6  # like 1/N
    tokens, how = torch.tensor([x0]).repeat(20_000, 1), dict(batch_size=20_000)
    many = bound(denoiser(logits), tokens, 2000, generator=seeded(1), **how)
    ever = bounds.nelbo_rows(
        denoiser(logits), unit, tokens, MASK, generator=seeded(0), eps=1e-6, **how
    )
    assert gaps[-1] / LENGTH > 0.02  # so what follows tells 32 steps from 2000
    assert many.value == pytest.approx(limit / LENGTH, abs=0.015)
    assert ever.value == pytest.approx(limit / LENGTH, abs=0.015)


def test_opening_steps_are_the_first_level_above_u():
    u = torch.tensor([[0.0, 0.24, 0.25, 0.74, 0.75, 1.0]])
    levels = bounds.levels_of(linear, 4)
    assert bounds.opening_steps(u, levels).tolist() == [[0, 0, 1, 2, 3, 3]]
    # A schedule that neither starts at 0 nor ends at 1.
    levels = bounds.levels_of(lambda t: 0.1 + 0.72 * (1 - t), 4)
    assert levels.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 1])
    assert bounds.opening_steps(u, levels).tolist() == [[0, 1, 1, 3, 3, 3]]


@pytest.mark.parametrize("law,step", LAWS)
@pytest.mark.parametrize("steps", [1, 3, 8])
def test_tokens_open_where_couple_shows_them(law, step, steps):
    """The views between the steps are Eq. 13's, for the same u."""
    u = coupling.draw_u(50, 20, law, step=step)
    order = bounds.opening_steps(u, bounds.levels_of(cosine, steps))
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    for k in range(1, steps):
        masked = u.double() > cosine(times[k])
        assert torch.equal(order >= k, masked)


def test_levels_and_temperatures_of_ones_own():
    """Shares by step, and a T that falls with them, against the sum over patterns."""
    logits, taus = table(), [1.0, 1 - 0.5 / 0.6 / 2, 0.5]
    how = dict(levels=[0.0, 0.5, 0.6, 1.0], temperature=lambda f: 1.0 - f / 2, draws=4000)
    found = bound(denoiser(logits), steps=3, generator=seeded(0), **how)
    patterns = iid_patterns(linear, 3, share=[0.5, 0.1, 0.4])
    is_the_mean(
        found,
        4000,
        patterns,
        lambda x, o: sum(log_p(logits, x, o, taus[k], only=k) for k in set(o)),
    )


def test_passes_are_counted_and_batches_change_nothing():
    tokens, results = X0S.repeat(3, 1), []
    for batch_size in (1, 7, 100):
        calls: list[int] = []
        how = dict(batch_size=batch_size, generator=seeded(5))
        found = bound(denoiser(table(), calls), tokens, **how)
        results.append(found.nats)
        assert sum(calls) <= 2 * len(tokens)
    for other in results[1:]:
        torch.testing.assert_close(results[0], other, atol=1e-12, rtol=0)
    assert found.value == pytest.approx(float(found.nats.sum()) / tokens.numel())


def test_few_tokens_are_projected_at_once(monkeypatch):
    """At a vocabulary of 50,258 a batch of 1,024 tokens has gigabytes of logits."""
    tokens, found = X0S.repeat(4, 1), {}
    for most in (8192, 5):
        monkeypatch.setattr(bounds, "PROJECTED", most)
        calls: list[int] = []
        how = dict(batch_size=100)
        one = bound(denoiser(table(), calls), tokens, 1, generator=seeded(5), **how)
        assert sum(calls) == len(tokens)
        two = bounds.nelbo_rows(denoiser(table()), unit, tokens, MASK, generator=seeded(5), **how)
        found[most] = (one.nats, two.nats)
        assert (max(calls) * tokens.shape[1] <= 5) or most > 5 or max(calls) == 1
    for a, b in zip(*found.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    for counts in ([3, 3, 3], [9, 1, 4, 4], [0, 0], [5]):
        parts = bounds._parts(counts, 5)
        assert [i for p in parts for i in range(len(counts))[p]] == [*range(len(counts))]
        assert all(sum(counts[p]) <= 5 or p.stop - p.start == 1 for p in parts)


def test_padding_does_not_count_and_is_not_projected():
    tokens = X0S.clone()
    valid = torch.ones_like(tokens, dtype=torch.bool)
    valid[:, 2] = False
    asked = []

    def denoise(z, rows):
        asked.append(int(rows[:, 2].sum()))
        return table()[tuple(z.T)][rows].clone()

    one = bound(denoise, tokens, 1, valid=valid)
    assert not any(asked) and one.tokens.tolist() == [2.0] * len(tokens)
    for x0, nats in zip(X0S.tolist(), one.nats.tolist(), strict=True):
        p = table()[(MASK,) * LENGTH][:, :MASK].log_softmax(-1)
        assert nats == pytest.approx(-float(p[0, x0[0]] + p[1, x0[1]]))
    # The tokens of a padded place may be anything, masks included.
    tokens[:, 2] = MASK
    again = bound(denoise, tokens, 1, valid=valid)
    assert torch.equal(one.nats, again.nats)
    less = bounds.nelbo_rows(denoise, unit, tokens, MASK, valid=valid, generator=seeded(1))
    assert less.tokens.tolist() == [2.0] * len(tokens) and not any(asked)


def test_sharpening_the_truth_raises_it():
    """A calibrated denoiser (independent tokens): any T but 1 costs, as theory says."""
    p = torch.tensor([0.7, 0.3], dtype=torch.float64)
    tokens = (torch.rand(3000, LENGTH, dtype=torch.float64) > p[0]).long()
    logits = torch.tensor([*p.log().tolist(), 5.0], dtype=torch.float64)

    def denoise(z, rows):
        return logits.repeat(int(rows.sum()), 1)

    values = [bound(denoise, tokens, temperature=t).value for t in (0.6, 1.0, 1.6)]
    assert values[1] < values[0] and values[1] < values[2]
    truth = torch.bincount(tokens.flatten()).double() / tokens.numel()
    assert values[1] == pytest.approx(-float((truth * p.log()).sum()), abs=1e-9)


def test_the_same_generator_shows_two_models_the_same_masks():
    seen = []

    def denoise(z, rows):
        seen.append((z == MASK).clone())
        return table()[tuple(z.T)][rows].clone()

    for _ in range(2):
        bound(denoise, steps=3, generator=seeded(9))
    half = len(seen) // 2
    assert half and all(map(torch.equal, seen[:half], seen[half:]))


@pytest.mark.parametrize(
    "tokens,steps,change,said",
    [
        (X0S, 0, {}, "steps=0"),
        (X0S, 2, {"draws": 0}, "draws=0"),
        (X0S, 2, {"temperature": 0.0}, "temperature=0.0"),
        (X0S, 2, {"temperature": lambda f: -f}, "must be positive"),
        (X0S, 2, {"levels": [0.0, 1.0]}, "there are 2, be steps + 1 = 3"),
        (X0S, 2, {"u_law": "comb"}, "algo.u_law=comb"),
        (X0S + 1, 2, {}, "hold mask_index=2"),
        (X0S[:0], 2, {}, "hold no text"),
        (X0S, 2, {"valid": torch.ones(2, 2)}, "valid has shape (2, 2)"),
        (X0S, 2, {"valid": torch.zeros(8, 3)}, "no token to count"),
    ],
)
def test_what_cannot_be_bounded_is_refused(tokens, steps, change, said):
    with pytest.raises(ConfigError) as caught:
        bound(denoiser(table()), tokens, steps, **change)
    assert said in str(caught.value)


def test_nan_logits_are_refused_by_name():
    logits = table()
    logits[MASK, MASK, MASK] = float("nan")
    with pytest.raises(ConfigError, match="N-step NELBO of sample 0 is nan"):
        bound(denoiser(logits), steps=1)
