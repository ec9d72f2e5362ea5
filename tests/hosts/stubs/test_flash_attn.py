"""The stand-in's functions against loops in float64."""

import math

import pytest
import torch

from mdlm_mcd.hosts.stubs.packages.flash_attn.flash_attn_interface import (
    flash_attn_varlen_qkvpacked_func as attention,
)
from mdlm_mcd.hosts.stubs.packages.flash_attn.layers import rotary

TOLERANCE = {
    torch.float64: dict(rtol=1e-10, atol=1e-10),
    torch.float32: dict(rtol=1e-5, atol=1e-5),
    torch.bfloat16: dict(rtol=3e-2, atol=3e-2),
}
dtypes = pytest.mark.parametrize("dtype", TOLERANCE)
THREE = torch.tensor([0, 3, 6, 9], dtype=torch.int32)


def attend(qkv, bounds, causal=False):
    """Attention position by position, in float64. qkv: (total, 3, heads, dim)."""
    q, k, v = qkv.double().unbind(1)
    out = torch.zeros_like(q)
    for first, last in zip(bounds, bounds[1:], strict=False):
        for i in range(first, last):
            seen = slice(first, i + 1 if causal else last)
            for h in range(q.shape[1]):
                p = (k[seen, h] @ q[i, h] / math.sqrt(q.shape[-1])).softmax(0)
                out[i, h] = p @ v[seen, h]
    return out


def turn(x, cos, sin):
    """Each plane turned by itself, in float64. x: (batch, length, heads, dim)."""
    x, cos, sin = x.double(), cos.double(), sin.double()
    out, r = x.clone(), cos.shape[-1]
    for n in range(x.shape[1]):
        for i in range(r):
            a, b, c, s = x[:, n, :, i], x[:, n, :, i + r], cos[n, i], sin[n, i]
            out[:, n, :, i], out[:, n, :, i + r] = a * c - b * s, b * c + a * s
    return out


def angles(length, r):
    t = torch.rand(length, r, dtype=torch.float64) * 6
    return t.cos(), t.sin()


@pytest.mark.parametrize("causal", [False, True])
@dtypes
def test_packed_sequences(causal, dtype):
    qkv = torch.randn(9, 3, 2, 4).to(dtype)
    got = attention(qkv, THREE, 3, 0.0, causal=causal)
    assert got.dtype == dtype and got.shape == (9, 2, 4)
    expected = attend(qkv, THREE.tolist(), causal)
    torch.testing.assert_close(got.double(), expected, **TOLERANCE[dtype])


def test_gradients_of_packed_sequences():
    qkv = torch.randn(9, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: attention(x, THREE, 3), (qkv,))


def test_dropout_keeps_the_mean_and_drops_probabilities():
    qkv, cu, n = torch.randn(4, 3, 1, 2, dtype=torch.float64), torch.tensor([0, 4]), 4000
    many = torch.stack([attention(qkv, cu, 4, 0.5) for _ in range(n)])
    assert (many.std(0) > 0.1).all()
    error = (many.mean(0) - attend(qkv, [0, 4])).abs()
    assert (error < 5 * many.std(0) / math.sqrt(n)).all()


@pytest.mark.parametrize("bounds", [[0, 3, 3, 8, 9], [3, 6, 9], [0, 3, 6], [0, 6, 3, 9], [9]])
def test_other_bounds_are_refused(bounds):
    with pytest.raises(ValueError, match="max_seqlen=3"):
        attention(torch.randn(9, 3, 1, 2), torch.tensor(bounds), 3)


@pytest.mark.parametrize("r", [3, 2], ids=["all", "partial"])
@dtypes
def test_rotary(r, dtype):
    x = torch.randn(2, 5, 3, 6).to(dtype)
    cos, sin = (a.to(dtype) for a in angles(5, r))
    expected = turn(x, cos, sin)
    got = rotary.apply_rotary_emb_torch(x, cos, sin)
    assert got.dtype == dtype and got.data_ptr() != x.data_ptr()
    torch.testing.assert_close(got.double(), expected, **TOLERANCE[dtype])
    rows = (a.expand(2, -1, -1) for a in (cos, sin))
    assert torch.equal(rotary.apply_rotary_emb_torch(x, *rows), got)
    qkv = torch.stack((x, x + 1, x + 2), dim=2)
    before = qkv.clone()
    longer = (torch.cat((a, a)) for a in (cos, sin))
    out = rotary.apply_rotary_emb_qkv_(qkv, *longer)
    assert out is qkv and out.dtype == dtype  # in place, as the name says
    q, k, v = out.double().unbind(2)
    torch.testing.assert_close(q, expected, **TOLERANCE[dtype])
    torch.testing.assert_close(k, turn(before[:, :, 1], cos, sin), **TOLERANCE[dtype])
    assert torch.equal(v, before[:, :, 2].double())


def test_gradients_of_rotary_through_a_linear_layer():
    """As the hosts use it: the write goes into a view of the layer's output."""
    cos, sin = angles(3, 2)
    inputs = torch.randn(2, 3, 4, dtype=torch.float64)
    weight = torch.randn(12, 4, dtype=torch.float64, requires_grad=True)

    def run(w):
        qkv = (inputs @ w.T).view(2, 3, 3, 1, 4)
        return rotary.apply_rotary_emb_qkv_(qkv, cos, sin)

    assert torch.autograd.gradcheck(run, (weight,))
    x = torch.randn(2, 3, 1, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotary.apply_rotary_emb_torch, (x, cos, sin))


def test_other_options_are_refused_by_name():
    """Never ignored: the hosts do not give them."""
    with pytest.raises(TypeError, match="softcap"):
        attention(torch.randn(9, 3, 2, 4), THREE, 3, softcap=1)
    with pytest.raises(TypeError, match="interleaved"):
        rotary.apply_rotary_emb_qkv_(torch.randn(1, 4, 3, 2, 4), *angles(4, 2), interleaved=True)
