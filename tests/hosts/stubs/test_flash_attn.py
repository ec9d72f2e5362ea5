"""The stand-in's functions against plain float64."""

import math

import pytest
import torch

from mdlm_mcd.hosts.stubs.packages.flash_attn.flash_attn_interface import (
    flash_attn_varlen_qkvpacked_func as attention,
)
from mdlm_mcd.hosts.stubs.packages.flash_attn.layers import rotary

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2}
dtypes = pytest.mark.parametrize("dtype", TOLERANCE)


def close(got, expected, dtype):
    assert got.dtype == dtype
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)


def attend(qkv, length, causal=False):
    """Attention position by position. qkv: (total, 3, heads, dim)."""
    q, k, v = qkv.double().unbind(1)
    out = torch.zeros_like(q)
    for i in range(len(q)):
        first = i - i % length
        seen = slice(first, i + 1 if causal else first + length)
        p = ((k[seen] * q[i]).sum(-1) / math.sqrt(q.shape[-1])).softmax(0)
        out[i] = (p[..., None] * v[seen]).sum(0)
    return out


def turn(x, cos, sin):
    """Each plane turned as a complex number. x: (batch, length, heads, dim)."""
    x, r = x.double(), cos.shape[-1]
    by = torch.complex(cos.double(), sin.double())[:, None]
    plane = torch.complex(x[..., :r], x[..., r : 2 * r]) * by
    return torch.cat((plane.real, plane.imag, x[..., 2 * r :]), -1)


def angles(length, r):
    t = torch.rand(length, r, dtype=torch.float64) * 6
    return t.cos(), t.sin()


@pytest.mark.parametrize("causal", [False, True])
@dtypes
def test_packed_sequences(causal, dtype):
    qkv = torch.randn(9, 3, 2, 4).to(dtype)
    got = attention(qkv, torch.tensor([0, 3, 6, 9]), 3, 0.0, causal=causal)
    close(got, attend(qkv, 3, causal), dtype)


def test_dropout_keeps_the_mean_and_drops_probabilities():
    qkv, cu, n = torch.randn(4, 3, 1, 2, dtype=torch.float64), torch.tensor([0, 4]), 4000
    many = torch.stack([attention(qkv, cu, 4, 0.5) for _ in range(n)])
    assert (many.std(0) > 0.1).all()
    assert ((many.mean(0) - attend(qkv, 4)).abs() < 5 * many.std(0) / math.sqrt(n)).all()


@pytest.mark.parametrize("bounds", [[0, 3, 3, 8, 9], [3, 6, 9], [0, 3, 6], [0, 6, 3, 9], [9]])
def test_other_bounds_are_refused(bounds):
    with pytest.raises(ValueError, match="max_seqlen=3"):
        attention(torch.randn(9, 3, 1, 2), torch.tensor(bounds), 3)


@pytest.mark.parametrize("r", [3, 2], ids=["all", "partial"])
@dtypes
def test_rotary(r, dtype):
    x = torch.randn(2, 5, 3, 6).to(dtype)
    cos, sin = (a.to(dtype) for a in angles(5, r))
    got = rotary.apply_rotary_emb_torch(x, cos, sin)
    close(got, turn(x, cos, sin), dtype)
    rows = (a.expand(2, -1, -1) for a in (cos, sin))
    assert torch.equal(rotary.apply_rotary_emb_torch(x, *rows), got)
    qkv = torch.stack((x, x + 1, x + 2), dim=2)
    expected = [turn(x, cos, sin), turn(x + 1, cos, sin), (x + 2).double()]
    out = rotary.apply_rotary_emb_qkv_(qkv, *(torch.cat((a, a)) for a in (cos, sin)))
    assert out is qkv  # in place, as the name says
    close(out, torch.stack(expected, dim=2), dtype)


def test_gradients_of_rotary_through_a_linear_layer():
    """As the hosts use it: the write goes into a view of the layer's output."""
    cos, sin = angles(3, 2)
    inputs = torch.randn(2, 3, 4, dtype=torch.float64)
    weight = torch.randn(12, 4, dtype=torch.float64, requires_grad=True)

    def run(w):
        qkv = (inputs @ w.T).view(2, 3, 3, 1, 4)
        return rotary.apply_rotary_emb_qkv_(qkv, cos, sin)

    assert torch.autograd.gradcheck(run, (weight,))
