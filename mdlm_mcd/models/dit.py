"""Diffusion transformer with the parameter names of the public MDLM models.

A `state_dict` of MDLM, of Duo's masked models or of the released `mdlm-owt` loads
strictly into `DIT` at the same sizes. Attention is torch's SDPA; flash-attn is used where
it is installed and applies (CUDA, half precision).

Import torch and einops alone here: export copies this file beside the weights, where it
has to run without this package.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from torch.utils.checkpoint import checkpoint

try:
    from flash_attn import flash_attn_func
except ImportError:  # the common case: SDPA computes the same
    flash_attn_func = None


class Rotary(nn.Module):
    """Rotary position embedding: cosines and sines of shape (length, dim / 2).

    The frequencies stay in float32 in a model of half precision, which would round them,
    and with them the angles: by a radian at position 1,000.
    """

    def __init__(self, dim: int, base: float = 10_000.0):
        super().__init__()
        self.dim, self.base = dim, base
        self.register_buffer("inv_freq", self.frequencies())

    def frequencies(self):
        return self.base ** -(torch.arange(0, self.dim, 2).float() / self.dim)

    def is_half(self) -> bool:
        return self.inv_freq.dtype.itemsize < 4

    def _apply(self, *args, **kwargs):
        rounded = self.is_half()
        super()._apply(*args, **kwargs)
        if rounded or self.is_half():
            self.inv_freq = self.frequencies().to(self.inv_freq.device)
        return self

    def forward(self, length: int):
        # Not cached: a cache filled under inference_mode (validation) cannot be trained with.
        positions = torch.arange(length, device=self.inv_freq.device)
        # FSDP and `from_pretrained` cast buffers without calling `_apply`.
        exact = self.inv_freq if not self.is_half() else self.frequencies()
        inv_freq = exact.to(positions.device)
        angles = positions.type_as(inv_freq)[:, None] * inv_freq
        return angles.cos(), angles.sin()


def rotate(x, cos, sin):
    """Rotate each pair (x_i, x_{i + dim / 2}); x: (batch, length, heads, dim)."""
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def attention(q, k, v, causal: bool):
    """Attend from q to k, v: each (batch, length, heads, dim) -> the same shape."""
    if flash_attn_func is not None and q.is_cuda and q.element_size() == 2:
        # It runs on Ampere and what came after.
        if torch.cuda.get_device_capability(q.device) >= (8, 0):
            return flash_attn_func(q, k, v, causal=causal)
    q, k, v = (rearrange(x, "batch length heads dim -> batch heads length dim") for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return rearrange(out, "batch heads length dim -> batch length heads dim")


class LayerNorm(nn.Module):
    """Layer normalisation without bias, in float32 under any autocast."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.dim = dim

    def forward(self, x):
        # Autocast runs `layer_norm` in float32; without it the input is widened here.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return F.layer_norm(wide, [self.dim]) * self.weight


def fitting(x, linear):
    """Cast x to the dtype of a layer's weights; norms return float32."""
    return x.to(linear.weight.dtype)


class TimestepEmbedder(nn.Module):
    """Embed sigma by sinusoidal features and a small MLP: (batch,) -> (batch, dim)."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(256, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )

    def forward(self, sigma):
        half = self.mlp[0].in_features // 2
        steps = torch.arange(half, device=sigma.device, dtype=torch.float32)
        freqs = torch.exp(-math.log(10_000.0) * steps / half)
        angles = sigma.float()[:, None] * freqs
        features = torch.cat((angles.cos(), angles.sin()), dim=-1)
        return self.mlp(features.to(self.mlp[0].weight.dtype))


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a projection that starts at zero, so that a block starts as the identity."""
    linear = nn.Linear(inputs, outputs)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class DDiTBlock(nn.Module):
    """Attention and MLP; modulated by the time when `cond_dim` is given."""

    def __init__(self, dim, n_heads, cond_dim=None, dropout=0.1, causal=False):
        super().__init__()
        self.n_heads, self.dropout, self.causal = n_heads, dropout, causal
        self.norm1 = LayerNorm(dim)
        self.attn_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.attn_out = nn.Linear(dim, dim, bias=False)
        self.norm2 = LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim)
        )
        if cond_dim is not None:
            self.adaLN_modulation = zero_linear(cond_dim, 6 * dim)

    def forward(self, x, rotary, c=None):
        modulation = (0.0, 0.0, 1.0) * 2
        if c is not None:
            modulation = self.adaLN_modulation(c)[:, None].chunk(6, dim=-1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation
        h = fitting(self.norm1(x) * (1 + scale_a) + shift_a, self.attn_qkv)
        q, k, v = rearrange(
            self.attn_qkv(h),
            "batch length (qkv heads dim) -> qkv batch length heads dim",
            qkv=3,
            heads=self.n_heads,
        )
        h = attention(rotate(q, *rotary), rotate(k, *rotary), v, self.causal)
        h = self.attn_out(rearrange(h, "batch length heads dim -> batch length (heads dim)"))
        x = x + gate_a * F.dropout(h, self.dropout, self.training)
        h = self.mlp(fitting(self.norm2(x) * (1 + scale_m) + shift_m, self.mlp[0]))
        return x + gate_m * F.dropout(h, self.dropout, self.training)


class EmbeddingLayer(nn.Module):
    """Token embedding: ids (batch, length) -> (batch, length, dim)."""

    def __init__(self, dim: int, vocab_dim: int, std: float | None = None):
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(vocab_dim, dim))
        if std is None:  # the public models' start
            nn.init.kaiming_uniform_(self.embedding, a=math.sqrt(5))
        else:
            nn.init.normal_(self.embedding, std=std)

    def forward(self, x):
        return F.embedding(x, self.embedding)


class DDiTFinalLayer(nn.Module):
    """Last norm, modulation and the projection onto the vocabulary."""

    def __init__(self, hidden_size, out_channels, cond_dim=None):
        super().__init__()
        self.norm_final = LayerNorm(hidden_size)
        self.linear = zero_linear(hidden_size, out_channels)
        if cond_dim is not None:
            self.adaLN_modulation = zero_linear(cond_dim, 2 * hidden_size)

    def forward(self, x, c=None):
        x = self.norm_final(x)
        if c is not None:
            shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, dim=-1)
            x = x * (1 + scale) + shift
        return self.linear(fitting(x, self.linear))


class DIT(nn.Module):
    """The denoiser: tokens (batch, length) and sigma (batch,) -> raw logits.

    config: an OmegaConf config, or a dict, with `model` (hidden_size, cond_dim,
    n_blocks, n_heads, dropout) and `algo.causal_attention`. With that set it is a
    plain causal transformer that ignores sigma. Logits are (batch, length,
    vocab_size), before SUBS. Raises ValueError for class labels and weights.
    """

    def __init__(self, config, vocab_size: int):
        super().__init__()
        model = config["model"]
        self.config = config
        self.causal = config["algo"]["causal_attention"]
        self.vocab_size = vocab_size
        # Keep each block's input alone, and compute the rest again for its gradient.
        self.checkpointing = model.get("checkpointing", False)
        dim, heads, dropout = model["hidden_size"], model["n_heads"], model["dropout"]
        cond_dim = None if self.causal else model["cond_dim"]
        self.vocab_embed = EmbeddingLayer(dim, vocab_size, model.get("embed_std"))
        if not self.causal:
            self.sigma_map = TimestepEmbedder(cond_dim)
        self.rotary_emb = Rotary(dim // heads)
        self.blocks = nn.ModuleList(
            DDiTBlock(dim, heads, cond_dim, dropout=dropout, causal=self.causal)
            for _ in range(model["n_blocks"])
        )
        self.output_layer = DDiTFinalLayer(dim, vocab_size, cond_dim)

    def forward(self, x, sigma, class_cond=None, weights=None):
        if class_cond is not None or weights is not None:
            raise ValueError("This DiT takes neither class labels nor weighted tokens.")
        x = self.vocab_embed(x)
        c = None if self.causal else F.silu(self.sigma_map(sigma))
        rotary = self.rotary_emb(x.shape[1])
        # bfloat16 is faster on CUDA, and slower than float32 on CPUs (attention's
        # backward). On other devices `trainer.precision` decides.
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=x.is_cuda):
            for block in self.blocks:
                if self.checkpointing and self.training:
                    x = checkpoint(block, x, rotary, c, use_reentrant=False)
                else:
                    x = block(x, rotary, c)
            return self.output_layer(x, c)
