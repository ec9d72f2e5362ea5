"""`flash_attn.layers.rotary` in plain PyTorch, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from .attention import refuse


def _halves(x: Tensor, interleaved: bool) -> tuple[Tensor, Tensor]:
    """The two coordinates of each plane: (..., d) to twice (..., d / 2)."""
    if interleaved:
        return x[..., ::2], x[..., 1::2]
    return x.chunk(2, dim=-1)


def apply_rotary_emb_torch(
    x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False
) -> Tensor:
    """Turn the first 2 r channels of x, leave the others.

    x: (batch, length, heads, dim), any float type. cos, sin: (length, r) or (batch,
    length, r) with 2 r <= dim. Channel i turns with channel i + r, or where
    `interleaved` channel 2 i with 2 i + 1. Answers a new tensor of x's shape, in the
    type that x and cos promote to. Raises ValueError when 2 r exceeds dim.
    """
    turned = 2 * cos.shape[-1]
    if turned > x.shape[-1]:
        raise ValueError(
            f"rotary: cos turns {turned} channels of heads that have {x.shape[-1]}: "
            "give cos and sin of at most half the head's width."
        )
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    a, b = _halves(x[..., :turned], interleaved)
    a, b = a * cos - b * sin, b * cos + a * sin
    if interleaved:
        parts = [torch.stack((a, b), dim=-1).flatten(-2)]
    else:
        parts = [a, b]
    return torch.cat([*parts, x[..., turned:]], dim=-1)


def apply_rotary_emb(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool = False,
    inplace: bool = False,
    seqlen_offsets: int | Tensor = 0,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
) -> Tensor:
    """The same in x's own type, computed in at least float32.

    x: (batch, length, heads, dim). cos, sin: (at least length + seqlen_offsets, r).
    inplace: x itself is overwritten and answered, as far as autograd allows that (not
    on a leaf that requires gradients). Raises NotImplementedError for ragged x
    (`cu_seqlens`) and for a tensor of offsets.
    """
    ragged = {"cu_seqlens": cu_seqlens, "max_seqlen": max_seqlen}
    refuse({name: value for name, value in ragged.items() if value is not None})
    if isinstance(seqlen_offsets, Tensor):
        refuse({"seqlen_offsets": "a tensor"})
    at = slice(seqlen_offsets, seqlen_offsets + x.shape[1])
    wide = torch.promote_types(x.dtype, torch.float32)
    out = apply_rotary_emb_torch(x.to(wide), cos[at].to(wide), sin[at].to(wide), interleaved)
    return x.copy_(out) if inplace else out.to(x.dtype)


def apply_rotary_emb_qkv_(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    cos_k: Tensor | None = None,
    sin_k: Tensor | None = None,
    interleaved: bool = False,
    seqlen_offsets: int | Tensor = 0,
    num_heads_q: int | None = None,
) -> Tensor:
    """Turn queries and keys of qkv in place, and answer qkv.

    qkv: (batch, length, 3, heads, dim). cos, sin: (at least length + seqlen_offsets,
    r); cos_k, sin_k: for the keys where they differ. Differentiable in qkv: the write
    is an operation autograd records, and refuses on a leaf that requires gradients.
    Raises NotImplementedError for grouped heads (`num_heads_q`).
    """
    if num_heads_q is not None:
        refuse({"num_heads_q": num_heads_q})
    cos_k, sin_k = cos if cos_k is None else cos_k, sin if sin_k is None else sin_k
    turned = [
        apply_rotary_emb(qkv[:, :, i], c, s, interleaved, seqlen_offsets=seqlen_offsets)
        for i, (c, s) in enumerate(((cos, sin), (cos_k, sin_k)))
    ]
    # One write: autograd then records one step for the whole tensor.
    qkv[:, :, :2].copy_(torch.stack(turned, dim=2))
    return qkv
