"""The stand-in's functions against loops in float64."""

import math

import pytest
import torch

from mdlm_mcd.hosts.stubs import flash_attn as flash

TOLERANCE = {
    torch.float64: dict(rtol=1e-10, atol=1e-10),
    torch.float32: dict(rtol=1e-5, atol=1e-5),
    torch.bfloat16: dict(rtol=3e-2, atol=3e-2),
}
RAGGED = [0, 3, 3, 8, 9]  # one of them is empty
EVEN = [0, 3, 6, 9]

either = pytest.mark.parametrize("bounds", [RAGGED, EVEN], ids=["ragged", "even"])


def attend(qkv, bounds, causal=False, scale=None):
    """Attention position by position, in float64. qkv: (total, 3, heads, dim)."""
    q, k, v = qkv.double().unbind(1)
    scale = scale or q.shape[-1] ** -0.5
    out = torch.zeros_like(q)
    for first, last in zip(bounds, bounds[1:], strict=False):
        for i in range(first, last):
            seen = slice(first, i + 1 if causal else last)
            for h in range(q.shape[1]):
                p = torch.tensor(
                    [float(q[i, h] @ key) * scale for key in k[seen, h]], dtype=torch.float64
                ).softmax(0)
                out[i, h] = sum(w * x for w, x in zip(p, v[seen, h], strict=True))
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


@either
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_packed_sequences(bounds, causal, scale, dtype):
    qkv = torch.randn(9, 3, 2, 4).to(dtype)
    longest = max(b - a for a, b in zip(bounds, bounds[1:], strict=False))
    got = flash.flash_attn_varlen_qkvpacked_func(
        qkv, torch.tensor(bounds, dtype=torch.int32), longest, 0.0, scale, causal
    )
    assert got.dtype == dtype and got.shape == (9, 2, 4)
    expected = attend(qkv, bounds, causal, scale)
    torch.testing.assert_close(got.double(), expected, **TOLERANCE[dtype])


@either
def test_gradients_of_packed_sequences(bounds):
    qkv = torch.randn(9, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    run = flash.flash_attn_varlen_qkvpacked_func
    assert torch.autograd.gradcheck(lambda x: run(x, torch.tensor(bounds), 5), (qkv,))


def test_dropout_keeps_the_mean_and_drops_probabilities():
    qkv, cu, n = torch.randn(4, 3, 1, 2, dtype=torch.float64), torch.tensor([0, 4]), 4000
    many = torch.stack([flash.flash_attn_varlen_qkvpacked_func(qkv, cu, 4, 0.5) for _ in range(n)])
    assert (many.std(0) > 0.1).all()
    error = (many.mean(0) - attend(qkv, [0, 4])).abs()
    assert (error < 5 * many.std(0) / math.sqrt(n)).all()


@pytest.mark.parametrize(
    "bounds,longest", [([3, 9], 9), ([0, 8], 9), ([0, 6, 4, 9], 9), ([0, 9], 5), ([9], 9)]
)
def test_bounds_that_do_not_cut_the_tokens_are_refused(bounds, longest):
    with pytest.raises(ValueError, match="must begin with 0"):
        flash.flash_attn_varlen_qkvpacked_func(
            torch.randn(9, 3, 1, 2), torch.tensor(bounds), longest
        )


@pytest.mark.parametrize("r", [3, 2], ids=["all", "partial"])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_rotary(r, dtype):
    x = torch.randn(2, 5, 3, 6).to(dtype)
    cos, sin = (a.to(dtype) for a in angles(5, r))
    expected = turn(x, cos, sin)
    got = flash.apply_rotary_emb_torch(x, cos, sin)
    assert got.dtype == dtype and got.data_ptr() != x.data_ptr()
    torch.testing.assert_close(got.double(), expected, **TOLERANCE[dtype])
    rows = (a.expand(2, -1, -1) for a in (cos, sin))
    assert torch.equal(flash.apply_rotary_emb_torch(x, *rows), got)
    qkv = torch.stack((x, x + 1, x + 2), dim=2)
    before = qkv.clone()
    longer = (torch.cat((a, a)) for a in (cos, sin))
    out = flash.apply_rotary_emb_qkv_(qkv, *longer)
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
        return flash.apply_rotary_emb_qkv_(qkv, cos, sin)

    assert torch.autograd.gradcheck(run, (weight,))
    x = torch.randn(2, 3, 1, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(flash.apply_rotary_emb_torch, (x, cos, sin))


@pytest.mark.parametrize("option", ["window_size", "softcap", "alibi_slopes", "block_table"])
def test_other_options_are_refused_by_name(option):
    """Never ignored: the hosts do not give them."""
    qkv, cu = torch.randn(4, 3, 2, 4), torch.tensor([0, 4])
    with pytest.raises(TypeError, match=option):
        flash.flash_attn_varlen_qkvpacked_func(qkv, cu, 4, **{option: 1})
    with pytest.raises(TypeError, match="interleaved"):
        flash.apply_rotary_emb_qkv_(qkv[None], *angles(4, 2), interleaved=True)


def test_more_channels_than_the_heads_have_are_refused():
    with pytest.raises(ValueError, match="turns 8 channels of heads that have 4"):
        flash.apply_rotary_emb_torch(torch.randn(2, 3, 1, 4), *angles(3, 4))
