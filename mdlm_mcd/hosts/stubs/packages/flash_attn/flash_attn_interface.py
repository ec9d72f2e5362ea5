"""Attention of packed sequences."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def flash_attn_varlen_qkvpacked_func(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, dropout_p: float = 0.0, *, causal=False
) -> Tensor:
    """Attend within each of several sequences of one length, packed one behind the other.

    softmax(q k^T / sqrt(dim)) v, with dropout on the probabilities.

    qkv: (total, 3, heads, dim); cu_seqlens: (sequences + 1,) integers, where each
    sequence begins, and the total; max_seqlen: the length. Returns (total, heads, dim) in
    qkv's type. Raises ValueError for sequences of several lengths, which no host has.
    """
    bounds = torch.arange(0, len(qkv) + 1, max_seqlen)
    if not torch.equal(cu_seqlens.cpu().long(), bounds):
        raise ValueError(
            f"cu_seqlens={cu_seqlens.tolist()} does not cut {len(qkv)} tokens into sequences "
            f"of max_seqlen={max_seqlen}: install flash-attn for sequences of several lengths."
        )
    # (sequences, length, 3, heads, dim)
    q, k, v = qkv.unflatten(0, (-1, max_seqlen)).transpose(1, 3).unbind(2)
    out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, is_causal=causal)
    return out.transpose(1, 2).flatten(0, 1)


def flash_attn_qkvpacked_func(
    qkv: Tensor, dropout_p: float = 0.0, *, causal=False, softcap: float = 0.0
) -> Tensor:
    """Attend within each sequence, its scores s capped as softcap * tanh(s / softcap).

    qkv: (batch, length, 3, heads, dim); softcap: 0 for none. Returns (batch, length, heads,
    dim) in qkv's type.
    """
    q, k, v = qkv.transpose(1, 3).unbind(2)
    wide = torch.promote_types(qkv.dtype, torch.float32)
    scores = (q @ k.mT).to(wide) / math.sqrt(q.shape[-1])
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=qkv.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    p = F.dropout(scores.softmax(-1), dropout_p).to(qkv.dtype)
    return (p @ v).transpose(1, 2)
