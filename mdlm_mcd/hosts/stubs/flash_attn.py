"""What the hosts call of flash-attn, in plain PyTorch on any device.

`flash_attn.flash_attn_interface` and `flash_attn.layers.rotary`, with the arguments that
the hosts give: Python refuses others by name. Unlike the real functions these take every
float type.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def flash_attn_varlen_qkvpacked_func(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
) -> Tensor:
    """Attend within each of several sequences that lie one behind the other.

    softmax(q k^T scale) v, with dropout on the probabilities.

    qkv: (total, 3, heads, dim); cu_seqlens: (sequences + 1,) integers, where each
    sequence begins, and the total; max_seqlen: the longest; softmax_scale: 1 / sqrt(dim)
    by default. Returns (total, heads, dim) in qkv's type. Raises ValueError when
    cu_seqlens does not run from 0 to the total in steps of 0 to max_seqlen.
    """
    total, bounds = len(qkv), cu_seqlens.tolist()
    lengths = [b - a for a, b in zip(bounds, bounds[1:], strict=False)]
    fits = lengths and (bounds[0], bounds[-1]) == (0, total)
    if not fits or min(lengths) < 0 or max(lengths) > max_seqlen:
        raise ValueError(
            f"cu_seqlens={bounds} does not cut {total} tokens into sequences of at "
            f"most max_seqlen={max_seqlen}: it must begin with 0, never fall, and end "
            "with the number of tokens."
        )
    # Of one length, as in the hosts' training: one call for all of them.
    even = len(set(lengths)) == 1
    parts = (
        [qkv.unflatten(0, (len(lengths), -1))] if even else [x[None] for x in qkv.split(lengths)]
    )
    out = []
    for part in parts:  # (sequences, length, 3, heads, dim)
        q, k, v = part.transpose(1, 3).unbind(2)
        attended = F.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout_p, is_causal=causal, scale=softmax_scale
        )
        out.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(out)


def apply_rotary_emb_torch(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first 2 r channels of x, channel i with channel i + r; leave the others.

    x: (batch, length, heads, dim), any float type. cos, sin: (length, r) or (batch,
    length, r) with 2 r <= dim. Returns a new tensor of x's shape, in the type that x and
    cos promote to. Raises ValueError when 2 r exceeds dim.
    """
    turned = 2 * cos.shape[-1]
    if turned > x.shape[-1]:
        raise ValueError(
            f"rotary: cos turns {turned} channels of heads that have {x.shape[-1]}: "
            "give cos and sin of at most half the head's width."
        )
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    a, b = x[..., :turned].chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., turned:]], dim=-1)


def apply_rotary_emb_qkv_(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn queries and keys of qkv in place, computed in at least float32; return qkv.

    qkv: (batch, length, 3, heads, dim). cos, sin: (at least length, r). Differentiable
    in qkv: the write is an operation autograd records, and refuses on a leaf that
    requires gradients. Raises as `apply_rotary_emb_torch`.
    """
    wide = torch.promote_types(qkv.dtype, torch.float32)
    cos, sin = (x[: qkv.shape[1]].to(wide) for x in (cos, sin))
    # One write: autograd then records one step for the whole tensor.
    turned = [apply_rotary_emb_torch(qkv[:, :, i].to(wide), cos, sin) for i in range(2)]
    qkv[:, :, :2].copy_(torch.stack(turned, dim=2))
    return qkv
