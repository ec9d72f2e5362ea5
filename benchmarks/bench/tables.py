"""Nats per token of held-out text: of tables of counts, and of models, which have to beat them."""

from __future__ import annotations

import torch
from torch import Tensor

ADDED = (0.01, 0.03, 0.1, 0.3, 1.0, 5.0)
PASSES, BATCH = 4, 64  # draws of masks for each row, and rows at a time


def tables(rows: Tensor, held_out: Tensor, size: int) -> dict[str, float]:
    """Return cross-entropies of tables of the training rows, in nats per held-out token.

    rows, held_out: (count, length) int64, [BOS] body [EOS]. Every row has the same first
    and last token, so these cost nothing, as a model that knows places has it. `unigram`
    adds one to each count and `bigram` what is best on the held-out rows (`added`), which
    is in the table's favour.
    """
    body = held_out[:, 1:-1]
    count = torch.bincount(rows[:, 1:-1].flatten(), minlength=size).double() + 1
    unigram = -(count / count.sum())[body].log().sum() / held_out.numel()
    pairs = (rows[:, :-2] * size + rows[:, 1:-1]).flatten()
    count = torch.bincount(pairs, minlength=size**2).view(size, size).double()
    before, best = held_out[:, :-2], {}
    for k in ADDED:
        p = (count[before, body] + k) / (count.sum(1)[before] + k * size)
        best[k] = float(-p.log().sum() / held_out.numel())
    k = min(best, key=best.get)
    return {"unigram": float(unigram), "bigram": best[k], "added": k}


def held_out(rows, count: int) -> Tensor:
    """Return rows (count, length) evenly spread over all of the held-out text."""
    every = torch.linspace(0, len(rows) - 1, min(count, len(rows))).long()
    return rows.tokens[every].long()


@torch.no_grad()
def nats(model, rows: Tensor) -> tuple[float, float]:
    """Return nats per token, of a masked model its NELBO, and the standard error over rows.

    The NELBO in continuous time is the mean over k = 1 ... length of what a masked token
    costs where k are masked; drawing k in place of t has less variance. The first token of a
    left-to-right model is given, and costs nothing, as in the tables.
    """
    torch.manual_seed(0)
    found, (count, length) = [], rows.shape
    left_to_right = model.parameterization == "ar"
    for _ in range(1 if left_to_right else PASSES):
        number = ((torch.randperm(count) + torch.rand(count)) / count * length).long() + 1
        order = torch.rand(rows.shape).argsort(1).argsort(1)
        masked = torch.where(order < number[:, None], model.mask_index, rows)
        for x, z, k in zip(*(y.split(BATCH) for y in (rows, masked, number)), strict=True):
            if left_to_right:
                cost = model.nll(x[:, :-1], None, x[:, 1:]).double().sum(1) / length
            else:
                sigma = model._sigma_from_alphat(1 - k[:, None] / (length + 1))
                log_p = model.forward(z, sigma).gather(-1, x[..., None])[..., 0]
                cost = -log_p.double().sum(1) / k  # visible tokens cost nothing
            found.append(cost)
    found = torch.cat(found).view(-1, count).mean(0)
    return float(found.mean()), float(found.std() / count**0.5)
