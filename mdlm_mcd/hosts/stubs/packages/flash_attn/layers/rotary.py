"""Rotary embeddings."""

import torch
from torch import Tensor

from mdlm_mcd.models.dit import rotate as apply_rotary_emb_torch

__all__ = ["apply_rotary_emb_qkv_", "apply_rotary_emb_torch"]


def apply_rotary_emb_qkv_(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn queries and keys of qkv in place, computed in at least float32; return qkv.

    qkv: (batch, length, 3, heads, dim). cos, sin: (length, dim / 2). Differentiable in qkv:
    the write is an operation autograd records, and refuses on a leaf that requires gradients.
    """
    wide = torch.promote_types(qkv.dtype, torch.float32)
    # One write: autograd then records one step for the whole tensor.
    turned = [apply_rotary_emb_torch(qkv[:, :, i].to(wide), cos, sin) for i in range(2)]
    qkv[:, :, :2].copy_(torch.stack(turned, dim=2))
    return qkv
