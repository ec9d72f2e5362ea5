"""Begin as a bigram model out of counts: `training.start=counts`.

A network that starts at random first learns how often each token is, and stays there until
attention finds a token's neighbours, which is a matter of luck. What neighbours say can be
counted. With M[x, y] = log p(x, y) / (p(x) p(y)) of neighbours x, y and M = A B^T of low
rank, the law of a token y between x and z in a Markov chain is

    softmax over y of  log p(y) + A_x . B_y + B_z . A_y,

and each term is left out where that neighbour is masked. A DiT can be just that: embeddings
hold A and B, half of the first block's heads look one place back and pass on A, the others
look ahead and pass on B, and the last layer has B and A as its weights. The other layers
start as the identity. Parameters, their names and the network are the public ones; only
their first values differ.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import ConfigError

KAPPA = 100.0  # the weight of p(y) in p(y | x), in counts
GAIN = 0.35  # of what the heads pass on: small, so that the last norm is about linear
PEAK = 5.0  # nats by which a head prefers its place to the next
SHIFT = 2.0  # of the feature by which all tokens look alike to those heads
FREQUENCIES = 6  # of the rotation, the fastest, which tell one place from the next
PATTERN = 8  # features that even out the embeddings' norms
MOST = 8_192  # tokens: tables and their decomposition grow by the square and the cube


def begin(model, rows) -> None:
    """Give a model of the host the start that `training.start` names, its EMA too.

    rows: the training data, `dataloader.Rows`. Raises ConfigError where a model has no
    start out of counts.
    """
    if model.config.training.get("start") is None:
        return
    why = _refusal(model, rows)
    if why:
        raise ConfigError(f"training.start=counts {why}: leave it at null.")
    from_counts(model.backbone, rows.tokens.long(), model.mask_index)
    if model.ema:
        model.ema = type(model.ema)(model._get_parameters(), decay=model.ema.decay)


def _refusal(model, rows) -> str:
    if not hasattr(model, "mask_index") or model.config.algo.backbone != "dit":
        return f"is for algo=mdlm and algo=ar with algo.backbone=dit, not {model.config.algo.name}"
    if not hasattr(rows, "tokens"):
        return "counts rows in memory, which those of data=huggingface are not"
    if model.vocab_size > MOST:
        return f"is for at most {MOST} tokens, and there are {model.vocab_size}"
    if model.config.model.n_heads < 2 or model.config.model.hidden_size < 2 * PATTERN:
        return f"takes model.n_heads of at least 2 and model.hidden_size of at least {2 * PATTERN}"
    return ""


def information(rows: Tensor, size: int, mask_index: int) -> tuple[Tensor, Tensor]:
    """Return p (size,) and M (size, size) of rows (count, length), in float64.

    p(y | x) is (count(x, y) + KAPPA p(y)) / (count(x) + KAPPA). The mask says nothing.
    """
    pairs = (rows[:, :-1] * size + rows[:, 1:]).flatten()
    count = torch.bincount(pairs, minlength=size**2).view(size, size).double()
    p = torch.bincount(rows.flatten(), minlength=size).double() + 1
    p /= p.sum()
    m = ((count / p + KAPPA) / (count.sum(1, keepdim=True) + KAPPA)).log()
    m[mask_index] = m[:, mask_index] = 0
    return p, m


def factors(p: Tensor, m: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return A and B, (size, rank): the best A B^T ~ m where frequent pairs weigh more."""
    weight = p.sqrt()
    u, s, v = torch.linalg.svd(weight[:, None] * m * weight)
    a, b = (x[:, :rank] * s[:rank].sqrt() / weight[:, None] for x in (u, v.mT))
    return a, b


@torch.no_grad()
def from_counts(backbone, rows: Tensor, mask_index: int) -> None:
    """Overwrite the first values of a DiT; rows: (count, length) int64."""
    embedding, last = backbone.vocab_embed.embedding, backbone.output_layer.linear
    size, dim = embedding.shape
    heads = backbone.blocks[0].n_heads
    parts = 1 if backbone.causal else 2  # a causal model's token sees itself: no head needed
    rank = (dim - PATTERN) // parts
    rank = min(rank, size) if backbone.causal else min(rank, size, heads // 2 * (dim // heads))
    p, m = information(rows, size, mask_index)
    a, b = factors(p, m, rank)
    # Embeddings of one norm, so that the norm in front of the heads is linear.
    scale = 0.6 * math.sqrt(dim) / max(a.norm(dim=1).max(), b.norm(dim=1).max())
    table = torch.zeros(size, dim, dtype=torch.float64)
    table[:, : parts * rank] = scale * torch.cat((a, b)[:parts], dim=1)
    pattern = torch.tensor([1.0, -1.0] * (PATTERN // 2 - 1), dtype=torch.float64)
    rest = (dim - table.square().sum(1, keepdim=True)).clamp(min=0).sqrt()
    start = parts * rank
    table[:, start : start + len(pattern)] = rest * pattern / pattern.norm()
    embedding.copy_(table)
    last.weight.zero_()
    gain = 1.0 if backbone.causal else GAIN
    last.weight[:, : parts * rank] = torch.cat((b, a)[:parts], dim=1) / (scale * gain)
    last.bias.copy_(p.log())
    for block in backbone.blocks:
        block.attn_out.weight.zero_()
        block.mlp[2].weight.zero_()
        block.mlp[2].bias.zero_()
        if not backbone.causal:  # gates open: what is zero is the layer's own output
            block.adaLN_modulation.bias.view(6, dim)[[2, 5]] = 1.0
    if not backbone.causal:
        _look_beside(backbone.blocks[0], backbone.rotary_emb.inv_freq.double(), rank)


def _look_beside(block, frequencies: Tensor, rank: int) -> None:
    """Make half of a block's heads pass on A from one place back, the others B from ahead.

    Query and key read the last feature, a constant. At a distance d = query - key they give
    sum over f of r^2 cos(f (d - place)), highest at d = place.
    """
    dim, heads = block.norm1.dim, block.n_heads
    width, half = dim // heads, dim // heads // 2
    block.adaLN_modulation.bias[dim - 1] = SHIFT
    q, k, v = block.attn_qkv.weight.view(3, heads, width, dim)
    out = block.attn_out.weight.view(dim, heads, width)
    f = frequencies[:FREQUENCIES]
    r = (PEAK * math.sqrt(width) / (1 - f.cos()).sum()).sqrt()
    back = heads // 2
    q.mul_(0.1)
    k.mul_(0.1)
    v.zero_()
    for head in range(heads):
        place, part, number = (1, 0, head) if head < back else (-1, rank, head - back)
        angle = place * f
        q[head, :, -1] = 0
        k[head, :, -1] = 0
        q[head, : len(f), -1] = r / SHIFT
        k[head, : len(f), -1] = r * angle.cos() / SHIFT
        k[head, half : half + len(f), -1] = r * angle.sin() / SHIFT
        for i in range(max(0, min(width, rank - number * width))):
            v[head, i, part + number * width + i] = 1
            out[part + number * width + i, head, i] = GAIN
