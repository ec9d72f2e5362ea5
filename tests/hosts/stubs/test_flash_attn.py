"""The stand-in's functions against loops in float64."""

import math

import pytest
import torch

from mdlm_mcd.hosts.stubs import attention, rotary

TOLERANCE = {
    torch.float64: dict(rtol=1e-10, atol=1e-10),
    torch.float32: dict(rtol=1e-5, atol=1e-5),
    torch.bfloat16: dict(rtol=3e-2, atol=3e-2),
}
RAGGED = [0, 3, 3, 8, 9]  # one of them is empty
EVEN = [0, 3, 6, 9]


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


def turn(x, cos, sin, interleaved=False, offset=0):
    """Each plane turned by itself, in float64. x: (batch, length, heads, dim)."""
    x, cos, sin = x.double(), cos.double(), sin.double()
    out, r = x.clone(), cos.shape[-1]
    for n in range(x.shape[1]):
        for i in range(r):
            a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + r)
            c, s = cos[n + offset, i], sin[n + offset, i]
            out[:, n, :, a] = x[:, n, :, a] * c - x[:, n, :, b] * s
            out[:, n, :, b] = x[:, n, :, b] * c + x[:, n, :, a] * s
    return out


def angles(length, r):
    t = torch.rand(length, r, dtype=torch.float64) * 6
    return t.cos(), t.sin()


@pytest.mark.parametrize("bounds", [RAGGED, EVEN], ids=["ragged", "even"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_packed_sequences(bounds, causal, scale, dtype):
    qkv = torch.randn(9, 3, 2, 4).to(dtype)
    longest = max(b - a for a, b in zip(bounds, bounds[1:], strict=False))
    got = attention.flash_attn_varlen_qkvpacked_func(
        qkv, torch.tensor(bounds, dtype=torch.int32), longest, 0.0, scale, causal
    )
    assert got.dtype == dtype and got.shape == (9, 2, 4)
    expected = attend(qkv, bounds, causal, scale)
    torch.testing.assert_close(got.double(), expected, **TOLERANCE[dtype])


@pytest.mark.parametrize("bounds", [RAGGED, EVEN], ids=["ragged", "even"])
def test_gradients_of_packed_sequences(bounds):
    qkv = torch.randn(9, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    cu = torch.tensor(bounds)

    def run(x):
        return attention.flash_attn_varlen_qkvpacked_func(x, cu, 5 if 8 in bounds else 3)

    assert torch.autograd.gradcheck(run, (qkv,))


def test_packed_batches_and_grouped_heads():
    qkv = torch.randn(2, 5, 3, 2, 4, dtype=torch.float64)
    got = attention.flash_attn_qkvpacked_func(qkv, causal=True)
    expected = torch.stack([attend(row, [0, 5], causal=True) for row in qkv])
    torch.testing.assert_close(got, expected)
    q, k, v = qkv.unbind(2)
    torch.testing.assert_close(attention.flash_attn_func(q, k, v, causal=True), expected)
    # Two heads of queries for each of the keys', in a row.
    more = torch.cat((q[:, :, :1], q[:, :, :1] + 1, q[:, :, 1:], q[:, :, 1:] + 1), 2)
    got = attention.flash_attn_func(more, k, v)
    plain = attention.flash_attn_func(q, k, v)
    torch.testing.assert_close(got[:, :, ::2], plain)
    torch.testing.assert_close(got[:, :, 1::2], attention.flash_attn_func(q + 1, k, v))


def test_dropout_keeps_the_mean_and_drops_probabilities():
    torch.manual_seed(0)
    qkv = torch.randn(4, 3, 1, 2, dtype=torch.float64)
    cu = torch.tensor([0, 4])
    n = 4000
    many = torch.stack(
        [attention.flash_attn_varlen_qkvpacked_func(qkv, cu, 4, 0.5) for _ in range(n)]
    )
    expected = attend(qkv, [0, 4])
    error = many.std(0) / math.sqrt(n)
    assert (many.std(0) > 0.1).all()
    assert ((many.mean(0) - expected).abs() < 5 * error).all()


@pytest.mark.parametrize(
    "option",
    [
        {"window_size": (3, 0)},
        {"softcap": 1.0},
        {"alibi_slopes": torch.ones(2)},
        {"deterministic": True},
        {"return_attn_probs": True},
        {"block_table": 1},
    ],
    ids=lambda o: next(iter(o)),
)
def test_unknown_options_are_refused_by_name(option):
    qkv, cu = torch.randn(4, 3, 2, 4), torch.tensor([0, 4])
    for call in (
        lambda **o: attention.flash_attn_varlen_qkvpacked_func(qkv, cu, 4, **o),
        lambda **o: attention.flash_attn_qkvpacked_func(qkv[None], **o),
        lambda **o: attention.flash_attn_func(*qkv[None].unbind(2), **o),
    ):
        with pytest.raises(NotImplementedError, match="install flash-attn") as error:
            call(**option)
        assert next(iter(option)) in str(error.value)


def test_options_by_position_are_seen_and_neutral_ones_taken():
    qkv = torch.randn(1, 4, 3, 2, 4)
    plain = attention.flash_attn_qkvpacked_func(qkv)
    named = attention.flash_attn_qkvpacked_func(qkv, 0.0, None, False, (-1, -1), 0.0)
    assert torch.equal(plain, named)
    with pytest.raises(NotImplementedError, match=r"window_size=\(1, 1\)"):
        attention.flash_attn_qkvpacked_func(qkv, 0.0, None, False, (1, 1))
    q, k, v = qkv.unbind(2)
    with pytest.raises(NotImplementedError, match="2 queries and 4 keys"):
        attention.flash_attn_func(q[:, :2], k, v, causal=True)


@pytest.mark.parametrize(
    "bounds,longest", [([3, 9], 9), ([0, 8], 9), ([0, 6, 4, 9], 9), ([0, 9], 5), ([9], 9)]
)
def test_bounds_that_do_not_cut_the_tokens_are_refused(bounds, longest):
    with pytest.raises(ValueError, match="must begin with 0"):
        attention.flash_attn_varlen_qkvpacked_func(
            torch.randn(9, 3, 1, 2), torch.tensor(bounds), longest
        )


@pytest.mark.parametrize("r", [3, 2], ids=["all", "partial"])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_rotary(r, interleaved, dtype):
    x = torch.randn(2, 5, 3, 6).to(dtype)
    cos, sin = (a.to(dtype) for a in angles(5, r))
    expected = turn(x, cos, sin, interleaved)
    got = rotary.apply_rotary_emb_torch(x, cos, sin, interleaved)
    assert got.dtype == dtype and got.data_ptr() != x.data_ptr()
    torch.testing.assert_close(got.double(), expected, **TOLERANCE[dtype])
    per_row = rotary.apply_rotary_emb_torch(
        x, cos.expand(2, -1, -1), sin.expand(2, -1, -1), interleaved
    )
    assert torch.equal(per_row, got)
    qkv = torch.stack((x, x + 1, x + 2), dim=2)
    before = qkv.clone()
    out = rotary.apply_rotary_emb_qkv_(qkv, cos, sin, interleaved=interleaved)
    assert out is qkv and out.dtype == dtype  # in place, as the name says
    q, k, v = out.double().unbind(2)
    torch.testing.assert_close(q, expected, **TOLERANCE[dtype])
    torch.testing.assert_close(k, turn(before[:, :, 1], cos, sin, interleaved), **TOLERANCE[dtype])
    assert torch.equal(v, before[:, :, 2].double())


def test_longer_tables_and_offsets_and_other_angles_for_keys():
    x = torch.randn(2, 4, 1, 6, dtype=torch.float64)
    cos, sin = angles(9, 3)
    got = rotary.apply_rotary_emb(x, cos, sin, seqlen_offsets=2)
    torch.testing.assert_close(got, turn(x, cos, sin, offset=2))
    assert rotary.apply_rotary_emb(x, cos, sin, inplace=True) is x
    qkv = torch.randn(1, 4, 3, 1, 6, dtype=torch.float64)
    q, k = qkv[:, :, 0].clone(), qkv[:, :, 1].clone()
    rotary.apply_rotary_emb_qkv_(qkv, cos, sin, cos_k=sin, sin_k=cos)
    torch.testing.assert_close(qkv[:, :, 0], turn(q, cos, sin))
    torch.testing.assert_close(qkv[:, :, 1], turn(k, sin, cos))


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
    for function in (rotary.apply_rotary_emb, rotary.apply_rotary_emb_torch):
        assert torch.autograd.gradcheck(function, (x, cos, sin))


def test_what_rotary_does_not_know_is_refused():
    x, (cos, sin) = torch.randn(2, 3, 1, 4), angles(3, 2)
    with pytest.raises(NotImplementedError, match="cu_seqlens.*install flash-attn"):
        rotary.apply_rotary_emb(x, cos, sin, cu_seqlens=torch.tensor([0, 3]))
    with pytest.raises(NotImplementedError, match="seqlen_offsets=a tensor"):
        rotary.apply_rotary_emb(x, cos, sin, seqlen_offsets=torch.tensor([1, 0]))
    with pytest.raises(NotImplementedError, match="num_heads_q=1"):
        rotary.apply_rotary_emb_qkv_(x, cos, sin, num_heads_q=1)
    with pytest.raises(ValueError, match="turns 8 channels of heads that have 4"):
        rotary.apply_rotary_emb_torch(x, *angles(3, 4))
