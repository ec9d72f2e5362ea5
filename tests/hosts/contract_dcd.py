"""One step of DCD in the Duo clone in this folder, and the minihost's model beside it.

`python contract_dcd.py OVERRIDES` prints the largest relative errors: of DCD's loss and
gradients against a computation that knows the host's `forward` and the noise (t, u,
other token) alone; of the minihost's logits, NELBO and posterior against the host's.
"""

import json
import os
import sys
from pathlib import Path

import contract
import torch
from omegaconf import OmegaConf

from mdlm_mcd import hosts
from mdlm_mcd.coupling import counter_generator, draw_u, sample_times
from mdlm_mcd.distillers.rng import StepNoise
from mdlm_mcd.duality import duo_transform
from mdlm_mcd.hosts import stubs

ROWS, STEP = contract.ROWS, contract.STEP


def error(got, wanted):
    return float((got - wanted).detach().abs().max() / wanted.detach().abs().max())


def dcd(config, tokenizer):
    model = hosts.DCD(config, tokenizer)
    contract.shake(model.backbone, 0.1)
    length, size = config.model.length, model.vocab_size
    x0 = torch.randint(0, size, (ROWS, length))
    valid = torch.ones(ROWS, length, dtype=torch.long)
    valid[2, length // 2 :] = 0
    stage = contract.begin(model)
    parts = model.distil(stage, x0, valid, None, StepNoise(model, ROWS, 0))
    got = contract.gradients(parts.loss / valid.sum(), model)

    def noise(name):
        return counter_generator(config.seed, STEP, name)

    t, s = sample_times(ROWS, stage.delta, generator=noise("t"))
    u = draw_u(ROWS, length, generator=noise("u"))
    other = torch.randint(size - 1, (ROWS, length), generator=noise("other token"))
    views = []
    for time in (t, s):
        low, high = config.algo.gamma_min, config.algo.gamma_max
        alpha_tilde = torch.sigmoid(-(low + time * (high - low))).sqrt()
        alpha = duo_transform(alpha_tilde, size)[:, None]
        kept = u <= ((size - 1) * alpha + 1) / size
        views.append((torch.where(kept, x0, other + (other >= x0)), alpha))
    student = model.backbone
    (z_t, alpha_t), (z_s, alpha_s) = views
    log_p = model(z_t, -torch.log(alpha_t).float()).double()
    model.backbone = model.teacher.backbone
    with torch.no_grad():
        log_q = model(z_s, -torch.log(alpha_s).float()).double()
    model.backbone = student
    of, to = (log_p, log_q) if config.algo.loss == "kl_bwd" else (log_q, log_p)
    expected = ((of.exp() * (of - to)).sum(-1) * valid).sum() / valid.sum()
    wanted = contract.gradients(expected, model)
    return {
        "differ": int((z_t != z_s).sum()),
        "loss": error(parts.loss / valid.sum(), expected),
        **contract.compared(got, wanted),
    }


def minihost(config, tokenizer):
    import algo

    from mdlm_mcd.minihost import algo as embedded

    config = OmegaConf.merge(config, {"algo": {"name": "duo_base"}})
    theirs = algo.DUO_BASE(config, tokenizer).eval()
    contract.shake(theirs.backbone, 0.1)
    ours = embedded.DUO_BASE(config, tokenizer).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    size = ours.vocab_size
    x0, z = torch.randint(size, (2, ROWS, config.model.length))
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
    return {
        "vocabulary": [size, theirs.vocab_size],
        "logits": error(*logs),
        "nelbo": error(*both),
        "posterior": error(*steps),
    }


def run(config):
    import dataloader

    tokenizer = dataloader.get_tokenizer(config)
    torch.manual_seed(0)
    return {"dcd": dcd(config, tokenizer), "minihost": minihost(config, tokenizer)}


if __name__ == "__main__":
    stubs.install(Path.cwd())
    sys.path.insert(0, os.getcwd())
    import main  # noqa: F401  registers the host's resolvers, imports its models

    print("CONTRACT", json.dumps(run(contract.compose(sys.argv[1:]))))
