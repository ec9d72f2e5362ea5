"""`flash_attn.flash_attn_interface` by PyTorch's own attention, on any device.

Unlike the real functions these take every float type. Options of theirs that are not
known here are refused, never ignored.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Further options, in the order in which the real functions take them.
_NEUTRAL = {
    "window_size": (-1, -1),
    "softcap": 0.0,
    "alibi_slopes": None,
    "deterministic": False,
    "return_attn_probs": False,
}


def refuse(options: dict[str, Any]) -> None:
    """Raise NotImplementedError naming the options, if there are any."""
    if options:
        said = ", ".join(f"{name}={value}" for name, value in options.items())
        raise NotImplementedError(
            f"The stand-in for flash_attn does not know {said}: install flash-attn."
        )


def _check(positional: tuple, named: dict[str, Any]) -> None:
    given = {**dict(zip(_NEUTRAL, positional, strict=False)), **named}
    refuse(
        {
            name: value
            for name, value in given.items()
            if name not in _NEUTRAL or (value is not None and value != _NEUTRAL[name])
        }
    )


def _attend(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float, scale: float | None, causal: bool
) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(
        q, k, v, dropout_p=dropout_p, is_causal=causal, scale=scale
    )
    return out.transpose(1, 2)


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    *rest,
    **options,
) -> Tensor:
    """softmax(q k^T scale) v, with dropout on the probabilities.

    q: (batch, length, heads, dim); k, v: (batch, length of keys, heads of keys, dim),
    where heads is a multiple of the keys' and each of those serves as many queries'
    heads in a row. softmax_scale: 1 / sqrt(dim) by default. Answers q's shape and type.
    Raises NotImplementedError for other options and for `causal` over two lengths.
    """
    _check(rest, options)
    if causal and q.shape[1] != k.shape[1]:
        refuse({"causal": f"True over {q.shape[1]} queries and {k.shape[1]} keys"})
    if q.shape[2] != k.shape[2]:
        shared = q.shape[2] // k.shape[2]
        k, v = (x.repeat_interleave(shared, dim=2) for x in (k, v))
    return _attend(q, k, v, dropout_p, softmax_scale, causal)


def flash_attn_qkvpacked_func(
    qkv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    *rest,
    **options,
) -> Tensor:
    """`flash_attn_func` of qkv: (batch, length, 3, heads, dim)."""
    _check(rest, options)
    return _attend(*qkv.unbind(dim=2), dropout_p, softmax_scale, causal)


def flash_attn_varlen_qkvpacked_func(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    *rest,
    **options,
) -> Tensor:
    """Attention within each of several sequences that lie one behind the other.

    qkv: (total, 3, heads, dim); cu_seqlens: (sequences + 1,) integers, where each
    sequence begins, and the total; max_seqlen: the longest. Answers (total, heads,
    dim) in qkv's type. Raises NotImplementedError for other options and ValueError
    when cu_seqlens does not run from 0 to the total in steps of 0 to max_seqlen.
    """
    _check(rest, options)
    total = qkv.shape[0]
    bounds = cu_seqlens.tolist()
    lengths = [b - a for a, b in zip(bounds, bounds[1:], strict=False)]
    if (
        not lengths
        or (bounds[0], bounds[-1]) != (0, total)
        or min(lengths) < 0
        or max(lengths) > max_seqlen
    ):
        raise ValueError(
            f"cu_seqlens={bounds} does not cut {total} tokens into sequences of at "
            f"most max_seqlen={max_seqlen}: it must begin with 0, never fall, and end "
            "with the number of tokens."
        )
    if len(set(lengths)) == 1:
        even = qkv.reshape(len(lengths), -1, *qkv.shape[1:])
        out = _attend(*even.unbind(dim=2), dropout_p, softmax_scale, causal)
        return out.reshape(total, *qkv.shape[2:])
    return torch.cat(
        [
            _attend(*part[None].unbind(dim=2), dropout_p, softmax_scale, causal)[0]
            for part in qkv.split(lengths)
        ]
    )
