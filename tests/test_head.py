"""The gathered, chunked head against the dense definition in `losses`."""

import copy
import logging
import shutil
from types import SimpleNamespace

import pytest
import torch
import torch.nn as nn

from mdlm_mcd import head, losses

BATCH, LENGTH, DIM, VOCAB = 4, 6, 8, 13
MASK = VOCAB - 1


class Output(nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.norm = nn.LayerNorm(DIM)
        self.linear = linear

    def forward(self, x):
        return self.linear(self.norm(x))


class Backbone(nn.Module):
    """A DiT as far as the head is concerned; `wrap` hides its projection."""

    def __init__(self, wrap=False, autocast=None):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, DIM)
        linear = nn.Linear(DIM, VOCAB)
        self.output_layer = Output(nn.Sequential(linear) if wrap else linear)
        self.autocast = autocast

    def forward(self, z):
        with torch.autocast("cpu", self.autocast, enabled=self.autocast is not None):
            return self.output_layer(self.embed(z))


def batch(share_t=0.7, share_s=0.4):
    g = torch.Generator().manual_seed(0)
    x0 = torch.randint(0, MASK, (BATCH, LENGTH), generator=g)
    u = torch.rand(BATCH, LENGTH, generator=g)
    return x0, u < share_t, u < share_s


def views(x0, masked_t, masked_s):
    return (torch.where(m, MASK, x0) for m in (masked_t, masked_s))


def dense(kind, student, teacher, x0, masked_t, masked_s, tau, mask_index=MASK):
    z_t, z_s = views(x0, masked_t, masked_s)
    with torch.no_grad():
        t_logits = losses.temper(losses.widen(teacher(z_s)), tau)
    if mask_index is None:
        logp = student(z_t).log_softmax(-1), t_logits.log_softmax(-1)
    else:
        logp = losses.subs(student(z_t), z_t, MASK), losses.subs(t_logits, z_s, MASK)
    return losses.per_token(kind, *logp, x0, masked_t, masked_s)


def gathered(kind, student, teacher, x0, masked_t, masked_s, tau, chunk, mask_index=MASK, **how):
    z_t, z_s = views(x0, masked_t, masked_s)
    with torch.no_grad():
        t = head.encode(teacher, lambda net: net(z_s))
    s = head.encode(student, lambda net: net(z_t))
    x0 = None if mask_index is None else x0
    how = dict(tau=tau, mask_index=mask_index, chunk=chunk) | how
    return head.supervise(kind, s, t, x0, masked_t, masked_s, **how)


def both(kind, dtype, share, chunk, wrap=False, tau=0.9, mask_index=MASK, compile=False):
    """(loss per token, every gradient): of the definition, and gathered."""
    torch.manual_seed(1)
    student, teacher = (Backbone(wrap).to(dtype) for _ in range(2))
    args = (kind, student, teacher, *batch(*share), tau)
    weight = torch.rand(BATCH, LENGTH, dtype=dtype)
    loss = dense(*args, mask_index)
    total = (loss * weight).sum()
    parts = gathered(*args, chunk, mask_index, weight=weight, compile=compile)
    torch.testing.assert_close(parts.loss, total.detach(), rtol=1e-6, atol=1e-9)
    # An upstream factor, as a trainer's division by micro-batches is one.
    grads, ours = (
        torch.autograd.grad(3 * x, list(student.parameters()), allow_unused=True)
        for x in (total, parts.loss)
    )
    assert parts.loss.requires_grad and not parts.per_token.requires_grad
    return (loss.detach(), grads), (parts.per_token, ours)


SHARES = [(0.7, 0.4), (0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.3, 0.3)]


@pytest.mark.parametrize("kind", list(losses.LOSSES))
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize(
    "chunk, wrap, multiple", [(1, False, 1), (5, False, 4), (5, True, 1), (1000, False, 1)]
)
def test_loss_and_every_gradient(monkeypatch, kind, share, chunk, wrap, multiple):
    """In float64 to rounding; in float32 to its own. multiple: as on a GPU, of the vocabulary."""
    monkeypatch.setattr(head, "_multiple", lambda device: multiple)
    (loss, grads), (ours, our_grads) = both(kind, torch.float64, share, chunk, wrap)
    torch.testing.assert_close(ours, loss, rtol=1e-12, atol=1e-12)
    # Without a masked row the gradient is zero, not missing: backward and DDP need it.
    assert all(g is not None for g in our_grads)
    torch.testing.assert_close(our_grads, grads, rtol=1e-12, atol=1e-12)
    if share == SHARES[0] and kind in ("hybrid", "kl_fwd", "ce"):
        (loss, grads), (ours, our_grads) = both(kind, torch.float32, share, chunk, wrap)
        for a, b in zip((ours, *our_grads), (loss, *grads), strict=True):
            assert (a - b).norm() <= 1e-6 * max(b.norm(), 1e-6)


@pytest.mark.slow  # compiles for half a minute
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_loss_and_every_gradient():
    """For all sizes of chunks and temperatures one compilation of each term.

    And another for a single row, of which torch makes a case of its own.
    """
    head.compiled_row_terms.cache_clear()
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    for chunk, tau in ((5, 0.9), (1000, 0.9), (4, 0.84), (1000, 1.0)):
        (loss, grads), (ours, our_grads) = both(
            "hybrid", torch.float64, (0.7, 0.4), chunk, tau=tau, compile=True
        )
        torch.testing.assert_close(ours, loss, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(our_grads, grads, rtol=1e-12, atol=1e-12)
    stats = torch._dynamo.utils.counters["stats"]
    assert 1 <= stats["unique_graphs"] <= 4
    assert not torch._dynamo.utils.counters["graph_break"]


def test_backbones_without_a_plain_projection_are_named_once(caplog):
    head._log_full_logits.cache_clear()
    with caplog.at_level(logging.INFO, "mdlm_mcd.head"):
        both("hybrid", torch.float64, (0.7, 0.4), 5, wrap=True)
    assert ["output_layer.linear" in r.getMessage() for r in caplog.records] == [True]


def test_no_full_logits_are_ever_made():
    """Every tensor with a vocabulary axis has at most `chunk` rows."""
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else (out,):
                if not isinstance(x, torch.Tensor) or not x.ndim:
                    continue
                # (dim, vocab) is the projection's own weight, transposed.
                if x.shape[-1] == VOCAB and x.shape != (DIM, VOCAB):
                    seen.append(x.shape[:-1].numel())
            return out

    student, teacher = Backbone(), Backbone()
    x0, masked_t, masked_s = batch(1.0, 0.5)
    with Watch():
        parts = gathered("hybrid", student, teacher, x0, masked_t, masked_s, 0.9, 3)
        parts.loss.sum().backward()
    assert seen and max(seen) == 3


def test_bfloat16_projection_has_the_gradient_autocast_would_give():
    """Both directions multiply in bfloat16 and add up in float32."""
    torch.manual_seed(0)
    student, teacher = (Backbone(autocast=torch.bfloat16) for _ in range(2))
    args = ("hybrid", student, teacher, *batch(), 0.9)
    parameters = list(student.parameters())
    expected = torch.autograd.grad(dense(*args).sum(), parameters)
    for chunk in (4, 1000):
        parts = gathered(*args, chunk)
        assert parts.loss.dtype == torch.float32
        got = torch.autograd.grad(parts.loss, parameters)
        for a, b in zip(got, expected, strict=True):
            assert a.dtype == torch.float32
            assert (a - b).norm() < 0.02 * b.norm()


def test_weights_in_bfloat16_add_up_in_float32():
    """Many small chunks lose no more than one large one."""
    g = torch.Generator().manual_seed(0)
    x0 = torch.randint(0, MASK, (64, 32), generator=g)
    everywhere = torch.ones_like(x0, dtype=torch.bool)
    hidden = torch.randn(64, 32, DIM, generator=g).bfloat16()
    linear, found = nn.Linear(DIM, VOCAB).bfloat16(), []
    for layer, chunk in ((copy.deepcopy(linear).double(), 10_000), (linear, 10_000), (linear, 4)):
        features = head.HiddenStates(hidden.to(layer.weight.dtype), layer)
        masks, how = (everywhere, everywhere), dict(tau=1.0, mask_index=MASK, chunk=chunk)
        parts = head.supervise("ce", features, None, x0, *masks, **how)
        grads = torch.autograd.grad(parts.loss, list(layer.parameters()))
        assert all(x.dtype == layer.weight.dtype for x in grads)
        found.append([x.double() for x in grads])
    for exact, *others in zip(*found, strict=True):
        assert all((grad - exact).norm() < 0.02 * exact.norm() for grad in others)


def test_the_loss_is_differentiated_once():
    parts = gathered("hybrid", Backbone(), Backbone(), *batch(), 0.9, 4)
    parts.loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated already"):
        parts.loss.backward()
    frozen = Backbone().requires_grad_(False)  # costs no gradient
    parts = gathered("hybrid", frozen, Backbone(), *batch(), 0.9, 4)
    assert not parts.loss.requires_grad and parts.loss > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, None])
@pytest.mark.parametrize("hugging_face", [False, True])
def test_projection_keeps_the_autocast_it_would_have_had(dtype, hugging_face):
    """Taken out of a Hugging Face model, too; the same products, then float32."""
    backbone, z = Backbone(autocast=dtype), batch()[0]
    logits = backbone(z)
    assert logits.dtype == (dtype or torch.float32)

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = backbone

        def forward(self, z):
            return SimpleNamespace(logits=self.backbone(z))

    features = head.encode(Wrapped() if hugging_face else backbone, lambda net: net(z))
    assert features.linear is backbone.output_layer.linear and features.autocast == dtype
    rows = features.logits(features.rows(torch.arange(BATCH * LENGTH)))
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows, losses.widen(logits).flatten(0, 1))


@pytest.mark.parametrize("after", [lambda x: 3 * (x / 3).tanh(), lambda x: x[..., :VOCAB] / 2])
def test_what_comes_after_the_projection_counts(after):
    """Then all logits are computed, at the first call and at each other."""

    class Capped(Backbone):
        def forward(self, z):
            return after(super().forward(z))

    backbone, z = Capped(), batch()[0]
    for _ in range(2):
        features = head.encode(backbone, lambda net: net(z))
        assert features.linear is None
        rows = features.logits(features.rows(torch.arange(BATCH * LENGTH)))
        torch.testing.assert_close(rows, losses.widen(backbone(z)).flatten(0, 1))
    assert "forward" not in vars(backbone.output_layer.linear)


def test_projection_is_put_back_also_after_an_error():
    backbone = Backbone()
    with pytest.raises(IndexError):
        head.encode(backbone, lambda net: net(torch.tensor([[VOCAB + 3]])))
    assert backbone(torch.zeros(1, 2, dtype=torch.long)).shape == (1, 2, VOCAB)
    assert "forward" not in vars(backbone.output_layer.linear)


def test_parts_add_up_to_the_loss():
    student, teacher = Backbone(), Backbone()
    x0, masked_t, masked_s = batch()
    parts = gathered("hybrid", student, teacher, x0, masked_t, masked_s, 0.9, 4)
    torch.testing.assert_close(parts.distil + parts.reveal, parts.loss.detach())
    torch.testing.assert_close(parts.per_token.sum(), parts.loss.detach())
    assert parts.distil_rows == (masked_t & masked_s).sum()
    assert parts.reveal_rows == (masked_t & ~masked_s).sum()
    z_t = torch.where(masked_t, MASK, x0)
    log_p = losses.subs(student(z_t), z_t, MASK)
    entropy = -(log_p.exp() * log_p).sum(-1)[masked_t].sum()
    torch.testing.assert_close(parts.entropy, entropy.detach())


@pytest.mark.parametrize("kind", ["kl_bwd", "kl_fwd"])
@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("wrap", [False, True])
def test_every_token_of_models_without_a_mask(kind, share, wrap):
    """Plain softmaxes, without x0; the rows that do not count cost 0."""
    expected, got = both(kind, torch.float64, (share, share), 5, wrap, tau=0.8, mask_index=None)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
