"""The teacher's steps of SDTT, against the ancestral chain summed over all paths."""

import itertools

import pytest
import scipy.stats
import torch
from enumeration import EMPTY, LENGTH, MASK, alpha, exact_law, table

from mdlm_mcd.distillers.sdtt import draw_tokens, rollout
from mdlm_mcd.head import HiddenStates

MANY = 20_000


def roll(logits, times, tau=1.0, n=MANY, start=EMPTY, chunk=1024, linear=None):
    """Teacher steps between `times`; (what it knew, the last state, its own states)."""
    g = torch.Generator().manual_seed(3)
    states = []

    def encode(z, k):
        states.append(z)
        known = logits[tuple(z.T)]
        return HiddenStates(known) if linear is None else HiddenStates(known, linear)

    alphas = [alpha(t) for t in times]
    opening = [
        torch.full((n,), (b - a) / (1 - a), dtype=torch.float64)
        for a, b in itertools.pairwise(alphas[:-1])
    ]
    noise = torch.rand(2, len(opening), n, LENGTH, generator=g, dtype=torch.float64)
    features, z = rollout(
        encode,
        torch.tensor(start).expand(n, LENGTH),
        opening,
        *noise,
        tau=tau,
        mask_index=MASK,
        chunk=chunk,
    )
    return features, z, states


@pytest.mark.parametrize("tau", [1.0, 0.6])
@pytest.mark.parametrize("start", [EMPTY, (1, MASK, MASK)])
def test_states_follow_the_ancestral_chain(tau, start):
    """The state shown to the last step has the law of the teacher's own sampler."""
    logits, times = table(), (0.9, 0.6, 0.2, 0.0)
    _, z, states = roll(logits, times, tau, start=start)
    # The enumeration's levels are shares of all that is masked at the start.
    alphas = [alpha(t) for t in times[:-1]]
    levels = [(a - alphas[0]) / (1 - alphas[0]) for a in alphas]
    law = exact_law(logits, levels, start, lambda step: {"temperature": tau})
    assert len(states) == 3 and torch.equal(states[-1], z)
    assert sum(law.values()) == pytest.approx(1.0)
    seen = [(z == torch.tensor(state)).all(-1).sum().item() for state in law]
    assert sum(seen) == MANY
    expected = [mass * MANY for mass in law.values()]
    assert scipy.stats.chisquare(seen, expected).pvalue > 1e-3


def test_impossible_tokens_are_never_drawn():
    """Not the mask, nor a token without probability, at either end of v."""
    logits = torch.tensor([[[-1e9, 0.0, -1e9, 50.0]]])
    for v in (0.0, 0.5, 1 - 2**-53):
        point = torch.tensor([v], dtype=torch.float64)
        drawn = draw_tokens(HiddenStates(logits), torch.tensor([0]), point, 1.0, MASK)
        assert drawn.tolist() == [1]
    empty = torch.zeros(0, dtype=torch.long)
    for shape in ((0,), (0, 3)):
        drawn = draw_tokens(HiddenStates(logits), empty, torch.zeros(shape), 1.0, MASK)
        assert drawn.shape == shape


def test_many_draws_are_each_what_it_would_be_alone():
    """Of one prediction, whatever the chunk."""
    features, index = HiddenStates(torch.randn(2, 5, MASK + 1)), torch.tensor([1, 4, 7])
    v = torch.rand(3, 4, dtype=torch.float64)
    for chunk in (None, 1, 2):
        drawn = draw_tokens(features, index, v, 0.9, MASK, chunk)
        alone = [draw_tokens(features, index, column, 0.9, MASK) for column in v.T]
        assert torch.equal(drawn, torch.stack(alone, 1)) and len(drawn.unique()) > 1
