"""Tables of counts, which a model of text has to beat before its samples say anything."""

from __future__ import annotations

import torch
from torch import Tensor

ADDED = (0.01, 0.03, 0.1, 0.3, 1.0, 5.0)


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
