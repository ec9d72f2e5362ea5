"""The stand-in's functions against plain float64."""

import math

import pytest
import torch

from mdlm_mcd.hosts.stubs.packages.flash_attn import flash_attn_interface
from mdlm_mcd.hosts.stubs.packages.flash_attn.layers import rotary

attention = flash_attn_interface.flash_attn_varlen_qkvpacked_func

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2}
dtypes = pytest.mark.parametrize("dtype", TOLERANCE)


def close(got, expected, dtype):
    assert got.dtype == dtype
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("softcap", [0, 0.5])
@pytest.mark.parametrize("causal", [False, True])
@dtypes
def test_packed_sequences(softcap, causal, dtype):
    qkv = torch.randn(9, 3, 2, 4).to(dtype)
    q, k, v = qkv.double().unbind(1)
    expected = torch.zeros_like(q)
    for i in range(9):  # position by position
        first = i - i % 3
        seen = slice(first, i + 1 if causal else first + 3)
        scores = (k[seen] * q[i]).sum(-1) / math.sqrt(4)
        p = (softcap * (scores / softcap).tanh() if softcap else scores).softmax(0)
        expected[i] = (p[..., None] * v[seen]).sum(0)
    whole, how = flash_attn_interface.flash_attn_qkvpacked_func, dict(causal=causal)
    rows = whole(qkv.unflatten(0, (3, 3)), 0.0, softcap=softcap, **how)
    close(rows.flatten(0, 1), expected, dtype)
    if not softcap:
        close(attention(qkv, torch.tensor([0, 3, 6, 9]), 3, 0.0, **how), expected, dtype)


def test_other_bounds_are_refused():
    for bounds in ([0, 3, 3, 8, 9], [0, 3, 6], [9]):
        with pytest.raises(ValueError, match="max_seqlen=3"):
            attention(torch.randn(9, 3, 1, 2), torch.tensor(bounds), 3)


@dtypes
def test_rotary(dtype):
    """Each plane turned as a complex number."""
    qkv, angle = torch.randn(2, 5, 3, 3, 6).to(dtype), 6 * torch.rand(5, 3)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    x = qkv[:, :, :2].double()
    by = torch.complex(cos.double(), sin.double())[:, None, None]
    plane = torch.complex(x[..., :3], x[..., 3:]) * by
    turned = torch.cat((plane.real, plane.imag), -1)
    close(rotary.apply_rotary_emb_torch(qkv[:, :, 0], cos, sin), turned[:, :, 0], dtype)
    expected = torch.cat((turned, qkv[:, :, 2:].double()), dim=2)
    out = rotary.apply_rotary_emb_qkv_(qkv, cos, sin)
    assert out is qkv  # in place, as the name says
    close(out, expected, dtype)


def test_gradients_of_rotary_through_a_linear_layer():
    """As the hosts use it: the write goes into a view of the layer's output."""
    angle = torch.rand(3, 2, dtype=torch.float64)
    inputs = torch.randn(2, 3, 4, dtype=torch.float64)
    weight = torch.randn(12, 4, dtype=torch.float64, requires_grad=True)

    def run(w):
        qkv = (inputs @ w.T).view(2, 3, 3, 1, 4)
        return rotary.apply_rotary_emb_qkv_(qkv, angle.cos(), angle.sin())

    assert torch.autograd.gradcheck(run, (weight,))
