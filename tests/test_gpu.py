"""What only a CUDA device can show; skipped, aloud, without one."""

import copy
import io
import json

import pytest
import torch
from enumeration import MASK, draw_on
from runs import SHORT, Stop, Watch, built, distil, fit, shaken
from speed_lib.gate import Gate

from mdlm_mcd import head, losses, sampling
from mdlm_mcd.errors import UnfinishedError

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
    drawn = draw_on("cuda", name, generator=torch.Generator("cuda").manual_seed(1))
    assert drawn.is_cuda and (drawn < MASK).all()
    if name == "locked":
        # A latent is the same on every device; a model is up to rounding.
        same = [draw_on(d, name, latent=sampling.Latent(3)).cpu() for d in ("cpu", "cuda")]
        assert torch.equal(*same)


def composed(compose, name, *more):
    more = (*more, "algo.gamma_max=2") if name == "dcd" else more  # of a small vocabulary
    cuda = ("trainer.accelerator=gpu", "loader.pin_memory=true", "trainer.limit_val_batches=0")
    scratch = ("algo.init_from=scratch", "model.dropout=0")
    return compose(f"algo={name}", *SHORT, *scratch, *cuda, *more)


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("name", ["mcd", "sdtt", "subset", "cd4lm", "dcd"])
def test_a_step_of_each_distiller_is_the_cpus(compose, name, compile):
    """Loss and gradients, from one noise; the blocks compute in bfloat16 on CUDA alone."""
    reference = built(composed(compose, name))
    student, teacher = shaken(reference)
    model = built(composed(compose, name, f"algo.compile={compile}"))
    model.backbone.load_state_dict(student.state_dict())
    model.teacher.snapshot(model.backbone, 0)
    model.teacher.backbone.load_state_dict(teacher.state_dict())
    for net in (model, model.teacher.backbone):
        net.cuda()
    x0 = torch.randint(0, 250, (8, 16))
    found = []
    for net, device in ((reference, "cpu"), (model, "cuda")):
        parts = distil(net, x0.to(device), torch.ones_like(x0, device=device), 1)
        grads = torch.autograd.grad(parts.loss, list(net.backbone.parameters()))
        found.append((parts.loss.item(), torch.cat([g.flatten().float().cpu() for g in grads])))
    (loss, grad), (cuda_loss, cuda_grad) = found
    # Rounding to bfloat16 alone changes the loss by up to 3%; gradients are the sharper check.
    assert cuda_loss == pytest.approx(loss, rel=0.06)
    assert (cuda_grad - grad).norm() < 0.1 * grad.norm()


@pytest.mark.parametrize("name, waits", [("mcd", 3), ("sdtt", 4), ("dcd", 2)])
def test_how_often_a_step_waits(compose, name, waits):
    """No more than on the stand-in (tests/evaluation/test_second_device.py)."""
    gate = Gate(commands=io.StringIO("waits\n" * 6), figures=io.StringIO())
    fit(composed(compose, name, "trainer.log_every_n_steps=100"), gate)
    steps = [json.loads(line)["waits"] for line in gate.figures.getvalue().splitlines()[1:]]
    assert max(steps[1:3]) <= waits, steps


def test_a_resumed_run_goes_on_as_it_would_have(compose, tmp_path):
    """Up to what torch's kernels on CUDA leave open: the order of their sums."""
    fit(composed(compose, "mcd", f"checkpointing.save_dir={tmp_path}/whole"), whole := Watch())
    with pytest.raises(UnfinishedError):
        fit(composed(compose, "mcd"), Stop(4))
    fit(composed(compose, "mcd"), again := Watch(), tmp_path / "checkpoints" / "last.ckpt")
    assert len(again.losses) == 2
    assert again.losses == pytest.approx(whole.losses[4:], rel=1e-3)
    assert again.rounds == whole.rounds[4:]


def test_a_sweep_that_outgrows_the_device_names_the_remedy(shell, monkeypatch):
    monkeypatch.undo()  # the fixture hides CUDA
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    room = torch.cuda.memory_reserved() + 64 * 2**20  # what cuBLAS keeps stays
    torch.cuda.set_per_process_memory_fraction(room / total)
    try:
        many = ("--num-samples", "100000", "--batch-size", "100000")
        status, text = shell.sweep("--device", "cuda", *many)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert status == 1
    assert "choose a smaller one and start the same command again" in text
