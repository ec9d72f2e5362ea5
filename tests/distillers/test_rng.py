"""Noise that is not ours to draw."""

import random
from types import SimpleNamespace

import numpy as np
import torch

from mdlm_mcd.distillers.rng import seed_global


def test_a_hosts_own_noise_goes_by_step_process_and_micro_batch():
    def draws(seed=1, step=3, rank=0, micro=0):
        config = SimpleNamespace(seed=seed)
        module = SimpleNamespace(config=config, global_step=step, global_rank=rank)
        seed_global(module, "micro-batch", micro)
        return torch.rand(()).item(), np.random.rand(), random.random()

    first = draws()
    assert draws() == first
    for change in ({"seed": 2}, {"step": 4}, {"rank": 1}, {"micro": 1}):
        assert all(a != b for a, b in zip(draws(**change), first, strict=True))
