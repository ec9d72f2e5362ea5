"""One step of a distiller in the host in this folder, against the papers in float64.

`python contract.py mcd|dcd OVERRIDES` prints relative errors: of the loss and its
gradients against a computation that knows the host's `forward` and nothing of ours but the
noise (t, u, other tokens), which both sides are given; of the embedded host's network, and
of its uniform-state model, against the host's.
"""

import json
import math
import os
import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf

from mdlm_mcd import hosts
from mdlm_mcd.coupling import counter_generator, draw_u, sample_times
from mdlm_mcd.distillers.rng import StepNoise
from mdlm_mcd.duality import duo_transform
from mdlm_mcd.hosts import stubs
from mdlm_mcd.models import dit

STEP, ROWS = 8, 8  # ROWS is loader.batch_size, for which noise is drawn


def compose(overrides):
    import hydra

    folder = str(Path.cwd() / "configs")
    with hydra.initialize_config_dir(folder, version_base=None):
        return hydra.compose("config", overrides=overrides)


def shake(backbone, std):
    """Leave the zero start, where neither loss nor gradients say much."""
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(std * torch.randn_like(p))


def error(got, wanted):
    return float((got - wanted).detach().abs().max() / wanted.detach().abs().max())


class Trainer:
    accumulate_grad_batches, world_size = 1, 1


def drawn(config, size):
    """Return x0 and which of its tokens are valid: half of a row is padding."""
    valid = torch.ones(ROWS, config.model.length, dtype=torch.long)
    valid[2, config.model.length // 2 :] = 0
    return torch.randint(0, size, valid.shape), valid


def begin(model):
    """Return the round of STEP, with a teacher and another student, in eval mode."""
    cls = type(model)
    for name, value in (("trainer", Trainer), ("global_step", STEP), ("global_rank", 0)):
        setattr(cls, name, property(lambda self, value=value: value))
    round_ = model.curriculum.at(STEP)
    model.teacher.snapshot(model.backbone, round_.index)
    shake(model.backbone, 0.05)
    model.eval()  # dropout would differ between the two computations
    return round_


def gradients(loss, backbone):
    loss.backward()
    found = [p.grad for p in backbone.parameters()]
    backbone.zero_grad(set_to_none=True)
    return found


def compared(model, loss, expected):
    """Return the errors of a loss and of its gradients."""
    got, wanted = (gradients(x, model.backbone) for x in (loss, expected))
    pairs = [(g, w) for g, w in zip(got, wanted, strict=True) if w is not None]
    scale = max(float(w.abs().max()) for _, w in pairs)
    errors = [float((0 * w if g is None else g).sub(w).abs().max()) for g, w in pairs]
    return {
        "loss": float(expected),
        "error": error(loss, expected),
        "gradient_scale": scale,
        "gradient_error": max(errors) / scale,
    }


def predictions(model, views, **labels):
    """Return log x_theta of student and teacher for views (z, alpha), by the host's `forward`."""
    student, found = model.backbone, []
    for backbone, (z, alpha) in zip((student, model.teacher.backbone), views, strict=True):
        model.backbone = backbone
        with torch.set_grad_enabled(backbone is student):
            found.append(model(z, -torch.log(alpha).float(), **labels).double())
    model.backbone = student
    return found


# MCD ----------------------------------------------------------------------------------


def visible(noise, t):
    """Return alpha_t by the schedules' names, from the hosts' papers."""
    if noise.type in ("log-linear", "loglinear"):
        return 1 - (1 - 1e-3) * t
    assert noise.type == "cosine"
    return 1 - torch.cos(math.pi / 2 * (1 - (1 - noise.eps) * t))


@torch.no_grad()
def times(model, steps=5):
    """Return sigma of each evaluation in the host's own sampler, and in ours."""
    duo, ours, found = hasattr(model, "generate_samples"), model.sampler, []

    def watch(net, args, kwargs):
        sigma = kwargs["sigma"] if "sigma" in kwargs else args[1]
        found[-1].append(float(sigma.unique()))

    hook = model.backbone.register_forward_pre_hook(watch, with_kwargs=True)
    for model.sampler in ("ancestral_cache" if duo else "ddpm_cache", ours):
        found.append([])
        if duo:
            model.generate_samples(ROWS, num_steps=steps)
        else:
            model._sample(num_steps=steps)
    hook.remove()
    return found


def network(model, config):
    """Return the errors of the embedded DiT, forward and backward, with the host's weights."""
    causal = config.algo.get("causal_attention", False)
    sizes = {"model": config.model, "algo": {"causal_attention": causal}}
    ours = dit.DIT(OmegaConf.create(sizes), vocab_size=model.vocab_size).eval()
    ours.load_state_dict(model.backbone.state_dict())
    z = torch.randint(0, model.vocab_size, (3, config.model.length))
    sigma, direction = torch.rand(3), None
    found = []
    for net in (model.backbone, ours.double()):
        out = net(z, sigma.to(next(net.parameters()).dtype))
        direction = torch.randn_like(out) if direction is None else direction
        slopes = gradients((out * direction).sum(), net)
        found.append([out, *(g for g in slopes if g is not None)])
    return max(error(*pair) for pair in zip(*found, strict=True))


def mcd(config, tokenizer):
    model = hosts.MCD(config, tokenizer)
    shake(model.backbone, 0.1)
    length, mask = config.model.length, model.mask_index
    batch = dict(zip(("input_ids", "attention_mask"), drawn(config, min(250, mask)), strict=True))
    classes = getattr(model, "num_classes", None)
    if classes:
        batch["labels"] = torch.arange(ROWS) % classes

    round_ = begin(model)
    noise = StepNoise(model, ROWS, 0)
    x0, valid, condition = model.host_inputs(batch, noise.uniform)
    parts = model.distil(round_, x0, valid, condition, noise)

    t, s = sample_times(ROWS, round_.delta, generator=counter_generator(config.seed, STEP, "t"))
    u = draw_u(ROWS, length, generator=counter_generator(config.seed, STEP, "u"))
    alphas = [visible(config.noise, time)[:, None] for time in (t, s)]
    (z_t, _), (z_s, _) = views = [(torch.where(u > a, mask, x0), a) for a in alphas]
    log_p, log_q = predictions(model, views, **({"labels": condition} if classes else {}))
    q = torch.log_softmax(log_q / round_.tau, -1)
    of, to = (q, log_p) if config.algo.loss == "kl_fwd" else (log_p, q)
    both = (z_t == mask) & (z_s == mask) & (valid > 0)
    revealed = (z_t == mask) & (z_s != mask) & (valid > 0)
    ce = -log_p.gather(-1, x0[..., None])[..., 0]
    expected = (of.exp() * (of - to))[both].sum() + ce[revealed].sum()
    return {
        **compared(model, parts.loss / valid.sum(), expected / valid.sum()),
        "both": int(both.sum()),
        "revealed": int(revealed.sum()),
        "dropped": int((condition == classes).sum()) if classes else None,
        "times": None if classes else times(model),
        "network": None if classes else network(model, config),
    }


# DCD ----------------------------------------------------------------------------------


def dcd(config, tokenizer):
    model = hosts.DCD(config, tokenizer)
    shake(model.backbone, 0.1)
    length, size = config.model.length, model.vocab_size
    x0, valid = drawn(config, size)
    round_ = begin(model)
    parts = model.distil(round_, x0, valid, None, StepNoise(model, ROWS, 0))

    def noise(name):
        return counter_generator(config.seed, STEP, name)

    t, s = sample_times(ROWS, round_.delta, generator=noise("t"))
    u = draw_u(ROWS, length, generator=noise("u"))
    other = torch.randint(size - 1, (ROWS, length), generator=noise("other token"))
    views = []
    for time in (t, s):
        low, high = config.algo.gamma_min, config.algo.gamma_max
        alpha_tilde = torch.sigmoid(-(low + time * (high - low))).sqrt()
        alpha = duo_transform(alpha_tilde, size)[:, None]
        kept = u <= ((size - 1) * alpha + 1) / size
        views.append((torch.where(kept, x0, other + (other >= x0)), alpha))
    log_p, log_q = predictions(model, views)
    of, to = (log_p, log_q) if config.algo.loss == "kl_bwd" else (log_q, log_p)
    expected = ((of.exp() * (of - to)).sum(-1) * valid).sum() / valid.sum()
    return {
        "differ": int((views[0][0] != views[1][0]).sum()),
        **compared(model, parts.loss / valid.sum(), expected),
        "embedded": uniform_model(config, tokenizer),
    }


def uniform_model(config, tokenizer):
    """Return the errors of the embedded `duo_base`: logits, NELBO, posterior."""
    import algo

    from mdlm_mcd.minihost import algo as embedded

    config = OmegaConf.merge(config, {"algo": {"name": "duo_base"}})
    theirs = algo.DUO_BASE(config, tokenizer).eval()
    shake(theirs.backbone, 0.1)
    ours = embedded.DUO_BASE(config, tokenizer).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert ours.vocab_size == theirs.vocab_size
    x0, z = torch.randint(ours.vocab_size, (2, ROWS, config.model.length))
    z = torch.where(torch.rand(x0.shape) < 0.5, x0, z)
    t = torch.linspace(0.02, 0.98, ROWS)[:, None].double()
    slope, alpha = theirs.noise(t)
    slope = torch.as_tensor(slope).expand_as(alpha)  # on ch-1 it is a number
    sigma = -torch.log(alpha).float()
    with torch.no_grad():
        logs = [net(z, sigma).double() for net in (ours, theirs)]
        both = [net.nll_per_token(logs[1], z, x0, alpha, slope) for net in (ours, theirs)]
        name = "_posterior_from_x0"
        known = (z, theirs.noise(t - 0.01)[1], alpha)
        # Branch ch-1 calls it otherwise.
        theirs_of = getattr(theirs, name, None) or theirs._compute_posterior
        steps = [f(logs[1].exp(), *known) for f in (getattr(ours, name), theirs_of)]
    return [error(*pair) for pair in (logs, both, steps)]


def run(which, config):
    import dataloader

    tokenizer = dataloader.get_tokenizer(config)
    torch.manual_seed(0)
    return {"mcd": mcd, "dcd": dcd}[which](config, tokenizer)


if __name__ == "__main__":
    stubs.install(Path.cwd())
    sys.path[0] = os.getcwd()
    import main  # noqa: F401  registers the host's resolvers, imports its models

    print("CONTRACT", json.dumps(run(sys.argv[1], compose(sys.argv[2:]))))
