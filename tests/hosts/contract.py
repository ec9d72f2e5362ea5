"""One step of MCD in the host in this folder, against the paper's text in float64.

`python contract.py OVERRIDES` prints the loss and the largest relative error of loss
and gradients. The reference knows the host's `forward` and nothing of ours but the
noise (t, u), which both sides are given.
"""

import json
import math
import os
import sys
from pathlib import Path

import torch

from mdlm_mcd import hosts
from mdlm_mcd.coupling import counter_generator, draw_u, sample_times
from mdlm_mcd.distillers.rng import StepNoise
from mdlm_mcd.hosts import stubs

STEP, ROWS = 8, 8  # ROWS is loader.batch_size, for which noise is drawn


def compose(overrides):
    import hydra

    folder = str(Path.cwd() / "configs")
    with hydra.initialize_config_dir(folder, version_base=None):
        return hydra.compose("config", overrides=overrides)


def visible(noise, t):
    """alpha_t by the schedules' names, from the hosts' papers."""
    if noise.type in ("log-linear", "loglinear"):
        return 1 - (1 - 1e-3) * t
    assert noise.type == "cosine"
    return 1 - torch.cos(math.pi / 2 * (1 - (1 - noise.eps) * t))


def shake(backbone, std):
    """Away from the zero start, where neither loss nor gradients say much."""
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(std * torch.randn_like(p))


@torch.no_grad()
def times(model, steps=5):
    """Sigma of each evaluation in the host's own sampler, and in ours."""
    duo, ours, found = hasattr(model, "generate_samples"), model.sampler, []
    for sampler in ("ancestral_cache" if duo else "ddpm_cache", ours):
        seen = []
        hook = model.backbone.register_forward_pre_hook(
            lambda net, args, kwargs, seen=seen: seen.append(
                kwargs["sigma"] if "sigma" in kwargs else args[1]
            ),
            with_kwargs=True,
        )
        model.sampler = sampler
        if duo:
            model.generate_samples(ROWS, num_steps=steps)
        else:
            model._sample(num_steps=steps)
        hook.remove()
        found.append([float(sigma.unique()) for sigma in seen])
    return found


class Trainer:
    accumulate_grad_batches, world_size = 1, 1


def begin(model):
    """The round of STEP, with a teacher and another student, in eval mode."""
    cls = type(model)
    cls.trainer = property(lambda self: Trainer)
    cls.global_step = property(lambda self: STEP)
    cls.global_rank = property(lambda self: 0)
    round_ = model.curriculum.at(STEP)
    model.teacher.snapshot(model.backbone, round_.index)
    shake(model.backbone, 0.05)
    model.eval()  # dropout would differ between the two computations
    return round_


def gradients(loss, model):
    loss.backward()
    found = [p.grad for p in model.backbone.parameters()]
    model.zero_grad(set_to_none=True)
    return found


def compared(got, wanted):
    pairs = [(g, w) for g, w in zip(got, wanted, strict=True) if w is not None]
    scale = max(float(w.abs().max()) for _, w in pairs)
    errors = [float((0 * w if g is None else g).sub(w).abs().max()) for g, w in pairs]
    return {"gradient_scale": scale, "gradient_error": max(errors) / scale}


def run(config):
    import dataloader

    tokenizer = dataloader.get_tokenizer(config)
    torch.manual_seed(0)
    model = hosts.MCD(config, tokenizer)
    shake(model.backbone, 0.1)
    length, mask = config.model.length, model.mask_index
    batch = {
        "input_ids": torch.randint(0, min(250, mask), (ROWS, length)),
        "attention_mask": torch.ones(ROWS, length, dtype=torch.long),
    }
    batch["attention_mask"][2, length // 2 :] = 0
    classes = getattr(model, "num_classes", None)
    if classes:
        batch["labels"] = torch.arange(ROWS) % classes

    stage = begin(model)
    noise = StepNoise(model, ROWS, 0)
    x0, valid, condition = model.host_inputs(batch, noise.uniform)
    parts = model.distil(stage, x0, valid, condition, noise)
    loss = parts.loss / valid.sum()
    got = gradients(loss, model)

    t, s = sample_times(ROWS, stage.delta, generator=counter_generator(config.seed, STEP, "t"))
    u = draw_u(ROWS, length, generator=counter_generator(config.seed, STEP, "u"))
    alpha = [visible(config.noise, time)[:, None] for time in (t, s)]
    z_t, z_s = (torch.where(u > a, mask, x0) for a in alpha)
    labels = {"labels": condition} if classes else {}
    student = model.backbone
    log_p = model(z_t, -torch.log(alpha[0]).float(), **labels).double()
    model.backbone = model.teacher.backbone
    with torch.no_grad():
        log_q = model(z_s, -torch.log(alpha[1]).float(), **labels).double()
    model.backbone = student
    total = torch.zeros((), dtype=torch.float64)
    both = revealed = 0
    for b in range(ROWS):
        for i in range(length):
            if z_t[b, i] != mask or not valid[b, i]:
                continue
            p = log_p[b, i]
            if z_s[b, i] == mask:
                both += 1
                q = torch.log_softmax(log_q[b, i] / stage.tau, -1)
                if config.algo.loss == "kl_fwd":
                    total = total + (q.exp() * (q - p)).sum()
                else:
                    total = total + (p.exp() * (p - q)).sum()
            else:
                revealed += 1
                total = total - p[x0[b, i]]
    expected = total / valid.sum()
    wanted = gradients(expected, model)
    return {
        "loss": float(expected),
        "error": abs(float(loss) - float(expected)) / float(expected),
        **compared(got, wanted),
        "both": both,
        "revealed": revealed,
        "dropped": int((condition == classes).sum()) if classes else None,
        "times": None if classes else times(model),
    }


if __name__ == "__main__":
    stubs.install(Path.cwd())
    sys.path[0] = os.getcwd()
    import main  # noqa: F401  registers the host's resolvers, imports its models

    print("CONTRACT", json.dumps(run(compose(sys.argv[1:]))))
