"""Tokens drawn from a prediction, as SDTT's rollout and MMD do."""

import torch

from mdlm_mcd.distillers.sdtt import draw_tokens
from mdlm_mcd.head import HiddenStates

MASK = 3  # of a vocabulary of 4


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
