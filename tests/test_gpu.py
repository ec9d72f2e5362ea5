"""What only a CUDA device can show; skipped, aloud, without one."""

import copy

import pytest
import torch

from mdlm_mcd import head, losses, sampling

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("compile", [False, True])
def test_the_gathered_head_under_bf16_keeps_its_softmax_in_float32(random_mdlm, compile):
    model = random_mdlm.cuda()
    x0 = torch.randint(0, 250, (4, 16), device="cuda")
    masked_t = torch.rand(4, 16, device="cuda") < 0.6
    z_t = torch.where(masked_t, model.mask_index, x0)
    sigma = torch.zeros(4, device="cuda")
    features = head.encode(model.backbone, lambda net: net(z_t, sigma))
    assert features.autocast == torch.bfloat16
    parts = head.supervise(
        "hybrid",
        features,
        features,
        x0,
        masked_t,
        masked_t,
        tau=0.9,
        mask_index=model.mask_index,
        chunk=7,
        compile=compile,
    )
    assert parts.loss.dtype == torch.float32
    grads = torch.autograd.grad(parts.loss, list(model.backbone.parameters()))
    logits = losses.widen(model.backbone(z_t, sigma))
    expected = losses.per_token(
        "hybrid",
        losses.subs(logits, z_t, model.mask_index),
        losses.subs(losses.temper(logits.detach(), 0.9), z_t, model.mask_index),
        x0,
        masked_t,
        masked_t,
    )
    torch.testing.assert_close(parts.per_token, expected, rtol=1e-4, atol=1e-5)
    dense = torch.autograd.grad(expected.sum(), list(model.backbone.parameters()))
    for a, b in zip(grads, dense, strict=True):
        assert (a - b).norm() <= 0.03 * b.norm() + 1e-6


def test_cuda_and_cpu_agree_on_one_forward(random_mdlm):
    net = random_mdlm.backbone
    # The network's own answer: SUBS would cover it with -1e6 and one-hot rows.
    z_t = torch.randint(0, 250, (4, 16))
    z_t[:, ::2] = random_mdlm.mask_index
    sigma = torch.zeros(4)
    with torch.no_grad():
        cpu = net(z_t, sigma)
        cuda = copy.deepcopy(net).cuda()(z_t.cuda(), sigma.cuda()).float().cpu()
    # bfloat16 in the blocks: three significant digits.
    assert (cpu - cuda).norm() < 0.02 * cpu.norm()


@pytest.mark.parametrize("name", list(sampling.SAMPLERS))
def test_samplers_draw_on_their_device(name):
    table = torch.randn(12, 7, generator=torch.Generator().manual_seed(0))

    def denoise(z, rows):
        return table.to(z.device)[rows.nonzero()[:, 1]]

    def draw(device, **how):
        return sampling.sample(
            name,
            denoise,
            5,
            12,
            4,
            alpha=lambda t: 1 - t,
            mask_index=6,
            vocab_size=7,
            device=device,
            **how,
        ).tokens

    drawn = draw("cuda", generator=torch.Generator("cuda").manual_seed(1))
    assert drawn.is_cuda and (drawn < 6).all()
    if name == "locked":
        # A latent is the same on every device; a model is up to rounding.
        same = [draw(d, latent=sampling.Latent(3)).cpu() for d in ("cpu", "cuda")]
        assert torch.equal(*same)
