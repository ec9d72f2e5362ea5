"""The uniform-state model: its NELBO, its posterior, its sampler, its runs."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
from enumeration import alpha, assert_law

from mdlm_mcd.minihost import algo, dataloader


@pytest.fixture
def build(compose):
    def model(size=None, *overrides):
        """Duo's model; with `size`, its formulas at that vocabulary."""
        config = compose("algo=duo_base", *overrides)
        net = algo.DUO_BASE(config, dataloader.get_tokenizer(config)).eval()
        net.vocab_size = size or net.vocab_size
        return net

    return model


def forward(size, keep):
    """Transition matrix (from, to): a token stays with `keep`, else it is redrawn."""
    return keep * np.eye(size) + (1 - keep) / size


def reverse(p, size, alpha_s, alpha_t):
    """P(z_s | z_t), by Bayes with p (size,) for the clean token: (z_s, z_t)."""
    at_s = p @ forward(size, alpha_s)
    joint = at_s[:, None] * forward(size, alpha_t / alpha_s)
    return joint / joint.sum(0)


@pytest.mark.parametrize("z, alpha_t", [(0, 0.02), (2, 0.02), (3, 0.5), (2, 0.97)])
def test_nelbo_is_the_limit_of_the_discrete_one(build, z, alpha_t):
    """KL(q(z_s | z_t, x) || p(z_s | z_t)) / (t - s), for s close to t."""
    net, size, x = build(5), 5, 2
    p = np.random.default_rng(0).dirichlet(np.ones(size))
    dt = 1e-5
    q = reverse(np.eye(size)[x], size, alpha_t + dt, alpha_t)[:, z]
    model = reverse(p, size, alpha_t + dt, alpha_t)[:, z]
    expected = scipy.stats.entropy(q, model) / dt
    one, log_p = torch.ones(1, 1, dtype=torch.float64), torch.tensor(np.log(p))[None, None]
    got = net.nll_per_token(log_p, torch.tensor([[z]]), torch.tensor([[x]]), alpha_t * one, -one)
    assert float(got) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("alpha_t", [1e-3, 0.5, 1 - 1e-3])
def test_nelbo_in_float32_at_gpt2s_vocabulary(build, alpha_t):
    size = 50_258
    net = build(size)
    log_p = torch.randn(1, 4, size).mul(3).double().log_softmax(-1)
    log_p[0, 2:] = -1e4  # all but certain, of the right token and of a wrong one
    log_p[0, 3, 7] = log_p[0, 2, 5] = 0.0
    x0, z = torch.tensor([[1, 2, 7, 7]]), torch.tensor([[1, 9, 7, 3]])
    alpha, slope = torch.tensor([[alpha_t]]), torch.tensor([[-1.0]])
    wide = net.nll_per_token(log_p, z, x0, alpha.double(), slope.double())
    narrow = log_p.float().requires_grad_()
    got = net.nll_per_token(narrow, z, x0, alpha, slope)
    assert got.dtype == torch.float32 and (got >= 0).all()
    torch.testing.assert_close(got.double(), wide, rtol=2e-3, atol=2e-3)
    (slopes,) = torch.autograd.grad(got.sum(), narrow)
    assert slopes.isfinite().all()


def test_noise_redraws_tokens_from_the_whole_vocabulary(build):
    net, n = build(5), 40_000
    x, alpha_t = torch.full((n, 2), 3), torch.full((n, 1), 0.4)
    counts = torch.bincount(net.q_xt(x, alpha_t)[:, 1], minlength=5)
    assert scipy.stats.chisquare(counts, n * forward(5, 0.4)[3]).pvalue > 1e-3
    net.ignore_bos = True
    z = net.q_xt(x, alpha_t)
    assert (z[:, 0] == 3).all() and not (z[:, 1] == 3).all()


@pytest.mark.parametrize("removal", ["ancestral", "none", "greedy"])
def test_a_sample_keeps_the_first_token_that_the_model_always_saw(build, removal):
    net = build(5, f"sampling.noise_removal={removal}")
    net.ignore_bos, net.tokenizer = True, SimpleNamespace(bos_token_id=3)
    x = net.generate_samples(50, num_steps=3)
    assert (x[:, 0] == 3).all() and not (x[:, 1] == 3).all()


@pytest.mark.parametrize("removal", ["ancestral", "none", "greedy"])
def test_the_sampler_against_every_path_of_the_reverse_chain(build, removal):
    """Two tokens of a vocabulary of three; the network is a table of state and time."""
    size = 3
    net = build(size, f"sampling.noise_removal={removal}", "model.length=2")
    table = 1.5 * torch.randn(size, size, 2, size).double()

    def forward_(xt, sigma, labels=None):
        # What it is told of the time matters.
        return (table[tuple(xt.T)] * (1 + sigma[:, :, None])).log_softmax(-1)

    net.forward = forward_
    drawn = net.generate_samples(20_000, num_steps=2)
    times = [1.0, 0.500005, 1e-5]

    stages = [(alpha(t), alpha(s)) for t, s in itertools.pairwise(times)]
    if removal != "none":
        stages.append((alpha(times[-1]), 1.0 if removal == "ancestral" else None))
    states = list(itertools.product(range(size), repeat=2))

    def step(z, alpha_t, alpha_s):
        """Probabilities of the next state."""
        log_p = forward_(torch.tensor([z]), torch.tensor([[-math.log(alpha_t)]]))[0]
        if alpha_s is None:
            return {tuple(log_p.argmax(-1).tolist()): 1.0}
        p = log_p.exp().numpy()
        one, other = (reverse(p[i], size, alpha_s, alpha_t)[:, z[i]] for i in range(2))
        return {y: one[y[0]] * other[y[1]] for y in states}

    law = dict.fromkeys(states, 1 / size**2)
    for stage in stages:
        before, law = law, dict.fromkeys(states, 0.0)
        for z, mass in before.items():
            for y, share in step(z, *stage).items():
                law[y] += mass * share
    assert_law(drawn, law)
