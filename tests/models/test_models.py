"""The DiT in the public layout, and the EMA."""

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

from mdlm_mcd import minihost
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.models import dit, ema
from mdlm_mcd.models.noise import NOISES

CONFIGS = Path(minihost.__file__).parent / "configs"


def config(model="laptop", causal=False, **changes):
    sizes = OmegaConf.load(CONFIGS / "model" / f"{model}.yaml")
    return OmegaConf.create({"model": {**sizes, **changes}, "algo": {"causal_attention": causal}})


def tiny(causal=False, dropout=0.0):
    torch.manual_seed(0)
    net = dit.DIT(
        config(hidden_size=16, n_heads=2, n_blocks=2, cond_dim=8, dropout=dropout, causal=causal),
        vocab_size=11,
    )
    for p in net.parameters():  # away from the zero start, where nothing shows
        torch.nn.init.normal_(p, std=0.3)
    return net


def test_checkpointed_blocks_have_the_same_gradients():
    """Dropout too, which is drawn again."""
    net, x = tiny(dropout=0.3).train(), torch.randint(0, 11, (3, 20))
    stored, grads = [], []  # elements that the backward pass needs

    def pack(tensor):
        stored[-1] += tensor.numel()
        return tensor

    for net.checkpointing in (False, True):
        torch.manual_seed(1)
        stored.append(0)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = net(x, torch.rand(3)).square().sum()
        grads.append(torch.autograd.grad(loss, list(net.parameters())))
    assert all(map(torch.equal, *grads))
    assert stored[1] < stored[0] / 3


@pytest.mark.parametrize("causal", [False, True])
def test_weights_in_bfloat16(causal):
    """As `from_pretrained(..., dtype=torch.bfloat16)` opens an export; places are not rounded."""
    net, x = tiny(causal).eval(), torch.randint(0, 11, (3, 700))
    half, turns = copy.deepcopy(net).bfloat16(), net.rotary_emb(1024)
    with torch.no_grad():
        wanted, got = net(x, torch.zeros(3)), half(x, torch.zeros(3))
    assert got.dtype == torch.bfloat16
    assert (got - wanted).norm() < 0.05 * wanted.norm()
    assert torch.equal(half.state_dict()["rotary_emb.inv_freq"], net.rotary_emb.inv_freq)
    # A buffer that something cast without telling the module.
    half.rotary_emb.inv_freq = net.rotary_emb.inv_freq.bfloat16()
    torch.testing.assert_close(half.rotary_emb(1024), turns, rtol=0, atol=0)
    torch.testing.assert_close(half.float().rotary_emb(1024), turns, rtol=0, atol=0)
    assert tiny().double().rotary_emb(3)[0].dtype == torch.float64


@pytest.mark.parametrize(
    "name,millions", [("small", 169), ("medium", 424), ("large", 863), ("tiny", 34)]
)
def test_sizes_are_the_papers(name, millions):
    """169M and 863M are the paper's; counted on the meta device, GPT-2's tokens."""
    with torch.device("meta"):
        net = dit.DIT(config(name), vocab_size=50_258)
    count = sum(p.numel() for p in net.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.9)


def test_parameter_names_are_the_public_ones():
    def linear(*names):
        return [f"{name}.{k}" for name in names for k in ("weight", "bias")]

    block = ["norm1.weight", "attn_qkv.weight", "attn_out.weight", "norm2.weight"]
    block += linear("mlp.0", "mlp.2", "adaLN_modulation")
    expected = {
        "vocab_embed.embedding",
        "rotary_emb.inv_freq",
        *linear("sigma_map.mlp.0", "sigma_map.mlp.2"),
        *(f"blocks.{i}.{k}" for i in range(2) for k in block),
        "output_layer.norm_final.weight",
        *linear("output_layer.linear", "output_layer.adaLN_modulation"),
    }
    assert set(tiny().state_dict()) == expected
    causal = set(tiny(causal=True).state_dict())
    assert causal == {k for k in expected if "adaLN" not in k and "sigma" not in k}


def naive(net, x, sigma):
    """The same transformer for one row, head by head."""

    def norm(h, layer):
        return F.layer_norm(h, h.shape[-1:]) * layer.weight

    def turn(h):  # (length, dim) of one head, its halves as complex numbers
        half = h.shape[-1] // 2
        rates = 10_000.0 ** (-torch.arange(half).double() / half)
        angles = torch.arange(len(h))[:, None] * rates
        turned = torch.complex(h[:, :half], h[:, half:]) * torch.exp(1j * angles)
        return torch.cat((turned.real, turned.imag), -1)

    rates = torch.exp(-math.log(10_000.0) * torch.arange(128).double() / 128)
    c = torch.cat(((sigma * rates).cos(), (sigma * rates).sin()))
    c = F.silu(net.sigma_map.mlp(c))
    h = net.vocab_embed.embedding[x]
    for block in net.blocks:
        parts = block.adaLN_modulation(c).chunk(6)
        a = norm(h, block.norm1) * (1 + parts[1]) + parts[0]
        heads = (y.chunk(block.n_heads, -1) for y in block.attn_qkv(a).chunk(3, -1))
        mixed = [
            (turn(q) @ turn(k).T / q.shape[-1] ** 0.5).softmax(-1) @ v
            for q, k, v in zip(*heads, strict=True)
        ]
        h = h + parts[2] * block.attn_out(torch.cat(mixed, -1))
        m = block.mlp(norm(h, block.norm2) * (1 + parts[4]) + parts[3])
        h = h + parts[5] * m
    last = net.output_layer
    shift, scale = last.adaLN_modulation(c).chunk(2)
    return last.linear(norm(h, last.norm_final) * (1 + scale) + shift)


def test_forward_equals_a_naive_float64_reference():
    net = tiny().double().eval()
    x = torch.randint(0, 11, (2, 7))
    sigma = torch.tensor([0.3, 2.0], dtype=torch.float64)
    got = net(x, sigma)
    for row in range(2):
        # inv_freq is a float32 buffer in the public models, cast along here.
        torch.testing.assert_close(got[row], naive(net, x[row], sigma[row]), rtol=1e-5, atol=1e-5)


def test_causal_attention_does_not_look_ahead():
    net = tiny(causal=True).eval()
    x = torch.randint(0, 11, (1, 8))
    other = x.clone()
    other[0, 5:] = (other[0, 5:] + 1) % 11
    a, b = net(x, None), net(other, None)
    assert torch.equal(a[:, :5], b[:, :5]) and not torch.equal(a[:, 5:], b[:, 5:])
    both = tiny().eval()
    sigma = torch.zeros(1)
    assert not torch.equal(both(x, sigma)[:, :5], both(other, sigma)[:, :5])


def test_dropout_only_in_training():
    net = tiny(dropout=0.5)
    x, sigma = torch.randint(0, 11, (1, 8)), torch.zeros(1)
    assert torch.equal(net.eval()(x, sigma), net(x, sigma))
    assert not torch.equal(net.train()(x, sigma), net(x, sigma))


def test_labels_and_weights_are_refused():
    with pytest.raises(ValueError, match="class labels"):
        tiny()(torch.zeros(1, 2, dtype=torch.long), torch.zeros(1), class_cond=1)


def test_a_block_compiles_in_one_graph():
    net = tiny()
    x, c, rotary = torch.randn(2, 5, 16), torch.randn(2, 8), net.rotary_emb(5)
    block = net.blocks[0]
    compiled = torch.compile(block, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, rotary, c), block(x, rotary, c))


def test_an_average_keeps_the_decay_that_it_was_given():
    """A model trained on from a file with `training.ema` of its own."""
    p = torch.nn.Parameter(torch.zeros(2))
    mine, other = (ema.ExponentialMovingAverage([p], decay=d) for d in (0.5, 0.9))
    mine.load_state_dict(other.state_dict())
    assert mine.decay == 0.5


def test_ema_follows_the_warmed_up_decay():
    p = torch.nn.Parameter(torch.zeros(3))
    frozen = torch.nn.Parameter(torch.zeros(2), requires_grad=False)
    average = ema.ExponentialMovingAverage([p, frozen], decay=0.5)
    expected = torch.zeros(3)
    for n in range(1, 30):
        with torch.no_grad():
            p.add_(1.0)
        average.update([p, frozen])
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * p.detach()
    torch.testing.assert_close(average.shadow_params[0], expected)
    assert len(average.shadow_params) == 1 and average.num_updates == 29


def test_ema_is_lent_and_given_back():
    p = torch.nn.Parameter(torch.ones(3))
    average = ema.ExponentialMovingAverage([p], decay=0.9)
    p.data *= 5
    average.store([p])
    average.copy_to([p])
    assert p.tolist() == [1, 1, 1]
    average.restore([p])
    assert p.tolist() == [5, 5, 5]
    with pytest.raises(ConfigError, match=r"training.ema=1.5"):
        ema.ExponentialMovingAverage([], decay=1.5)


@pytest.mark.parametrize(
    "name, law",
    [
        ("log-linear", lambda t: 1 - 0.999 * t),
        ("cosine", lambda t: 1 - torch.cos(math.pi / 2 * (1 - 0.999 * t))),
    ],
)
def test_schedules_and_their_derivatives(name, law):
    t = torch.linspace(0, 1, 9, dtype=torch.float64, requires_grad=True)
    slope, alpha_t = NOISES[name](1e-3)(t)
    torch.testing.assert_close(alpha_t, law(t))
    (expected,) = torch.autograd.grad(alpha_t.sum(), t)
    torch.testing.assert_close(slope.detach(), expected)
