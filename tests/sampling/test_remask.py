"""ReMDM's remasking in `ancestral`, against enumeration of every path."""

import itertools

import pytest
import torch
from enumeration import (
    LENGTH,
    MASK,
    assert_law,
    draw,
    exact_law,
    hosts,
    sample,
    table,
    timed,
    timed_table,
    uniform,
)

from mdlm_mcd import laws


def distance(one, other):
    """Total variation of two laws of sequences."""
    return sum(abs(one.get(z, 0.0) - other.get(z, 0.0)) for z in {*one, *other}) / 2


@pytest.mark.parametrize("remask", [0.3, 1.0, [0.0, 0.2, 1.0, 0.4]])
@pytest.mark.parametrize("how", [{}, dict(temperature=0.7, top_p=0.8)])
def test_law_is_exact(remask, how):
    law = exact_law(table(), uniform(4), how=lambda step: how, remask=remask)
    assert_law(draw("ancestral", 4, n=20_000, remask=remask, **how), law)
    without = exact_law(table(), uniform(4), how=lambda step: how)
    assert distance(law, without) > 0.03  # which the draws would not fit


def test_law_with_everything_at_once():
    """Time, shares of 0 as in ReMDM's loop, and a given token, which is never masked."""
    shares, remask, start = [2, 1, 0, 0, 1], [0.0, 0.1, 0.5, 0.3, 1.0], (MASK, 1, MASK)
    levels, seen = laws.levels(shares, 5), []
    tables = [timed_table(0.2 + 0.8 * level) for level in levels[:-1]]
    how = dict(denoise=timed(), alpha=hosts, schedule=shares, remask=remask)
    how |= dict(n=20_000, prompt=torch.tensor(start).expand(20_000, -1))
    drawn = draw("ancestral", 5, callback=lambda step, z: seen.append(z), **how)
    assert_law(drawn, exact_law(tables, levels, start, remask=remask))
    assert all((z[:, 1] == 1).all() for z in seen)
    assert any(((a != MASK) & (b == MASK)).any() for a, b in itertools.pairwise(seen))


@pytest.mark.parametrize("steps, errors", [(4, [0.161, 0.166, 0.238]), (16, [0.042, 0.060, 0.125])])
def test_what_docs_samplers_md_has(steps, errors):
    """Under the exact denoiser, where all error is the sampler's, it grows with sigma_t."""
    x0s, logits = list(itertools.product(range(MASK), repeat=LENGTH)), torch.zeros_like(table())
    g = torch.Generator().manual_seed(2)
    p = (2 * torch.randn(len(x0s), generator=g).double()).softmax(0).tolist()
    language = dict(zip(x0s, p, strict=True))  # whose tokens depend on one another
    for z in itertools.product(range(MASK + 1), repeat=LENGTH):
        fits = [x for x in x0s if all(b in (a, MASK) for a, b in zip(x, z, strict=True))]
        for i, v in itertools.product(range(LENGTH), range(MASK)):
            logits[(*z, i, v)] = sum(language[x] for x in fits if x[i] == v)
    found = [exact_law(logits.log(), uniform(steps), remask=eta) for eta in (0.0, 0.1, 1.0)]
    assert [distance(law, language) for law in found] == pytest.approx(errors, abs=1e-3)


def test_a_step_that_changes_nothing_costs_nothing():
    drawn = sample("ancestral", 50, n=1, remask=0.01)
    assert 1 < drawn.evaluations < 20
    assert sample("ancestral", 50, n=1, remask=1.0).evaluations > 20
