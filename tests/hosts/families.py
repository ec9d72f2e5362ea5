"""Hosts in memory, one of each family, for tests that hold of all of them."""

import types
from dataclasses import dataclass

import fakes
import pytest
import torch

from mdlm_mcd import hosts, sampling
from mdlm_mcd.hosts import duo, mdlm, specs
from mdlm_mcd.minihost import algo, dataloader

SCRATCH = ("algo=mcd", "algo.init_from=scratch")


@dataclass
class Family:
    """A host in memory, and how its students are built and drawn from."""

    spec: specs.HostSpec
    module: types.ModuleType
    adapter: types.ModuleType
    own: str  # a predictor of the host's
    more: tuple[str, ...] = ()

    def student(self, compose, *overrides, batch=8):
        rows = f"loader.eval_batch_size={batch}"
        config = compose(*SCRATCH, *self.more, rows, *overrides)
        torch.manual_seed(3)
        cls = hosts.distiller("MCD", self.spec, self.module)
        model = cls(config, dataloader.get_tokenizer(config)).eval()
        for p in model.backbone.parameters():
            torch.nn.init.normal_(p, std=0.2)
        return model

    def draw(self, model, steps=None, seed=5):
        torch.manual_seed(seed)
        if self.spec is specs.MDLM:
            return model._sample(num_steps=steps)
        return model.generate_samples(model.config.loader.eval_batch_size, num_steps=steps)

    def expected(self, model, name, count, steps, seed=5, **how):
        """The same by the library."""
        torch.manual_seed(seed)
        return sampling.sample(
            name,
            self.adapter.denoiser(model),
            count,
            16,
            steps,
            mask_index=model.mask_index,
            alpha=lambda t: 1 - (1 - 1e-3) * t,
            vocab_size=model.vocab_size,
            **how,
        ).tokens


DUO = Family(specs.DUO, algo, duo, "ancestral_cache")
MDLM = Family(specs.MDLM, fakes.diffusion, mdlm, "ddpm_cache", more=("+parameterization=subs",))
FAMILIES = (DUO, MDLM)

each = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.spec.name)
