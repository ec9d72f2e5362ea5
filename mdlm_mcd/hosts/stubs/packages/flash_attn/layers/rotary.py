"""Rotary embeddings."""

import torch
from torch import Tensor


def apply_rotary_emb_torch(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first 2 r channels of x, channel i with channel i + r; leave the others.

    x: (batch, length, heads, dim), any float type. cos, sin: (length, r) or (batch,
    length, r) with 2 r <= dim. Returns a new tensor of x's shape, in the type that x and
    cos promote to.
    """
    turned = 2 * cos.shape[-1]
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    a, b = x[..., :turned].chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., turned:]], dim=-1)


def apply_rotary_emb_qkv_(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn queries and keys of qkv in place, computed in at least float32; return qkv.

    qkv: (batch, length, 3, heads, dim). cos, sin: (at least length, r). Differentiable
    in qkv: the write is an operation autograd records, and refuses on a leaf that
    requires gradients.
    """
    wide = torch.promote_types(qkv.dtype, torch.float32)
    cos, sin = (x[: qkv.shape[1]].to(wide) for x in (cos, sin))
    # One write: autograd then records one step for the whole tensor.
    turned = [apply_rotary_emb_torch(qkv[:, :, i].to(wide), cos, sin) for i in range(2)]
    qkv[:, :, :2].copy_(torch.stack(turned, dim=2))
    return qkv
