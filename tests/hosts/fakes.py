"""Hosts made of the minihost: a clone like Duo's, not patched, and both families in memory.

The clone's main.py has the lines that our patch changes, taken from the patch itself, so
that everything about patching and launching runs without a real clone.
"""

import shutil
import types
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from mdlm_mcd import hosts, minihost, sampling
from mdlm_mcd.hosts import duo as duo_adapter
from mdlm_mcd.hosts import mdlm as mdlm_adapter
from mdlm_mcd.hosts import patches, specs
from mdlm_mcd.minihost import algo, dataloader
from mdlm_mcd.sampling.denoiser import denoiser

MAIN = '''\
"""A host."""
import hydra

import algo
import dataloader
import utils

embedded = utils.embedded
embedded.register_resolvers()


@hydra.main(version_base=None, config_path='configs', config_name='config')
def main(config):
  embedded.omegaconf.OmegaConf.to_yaml(config, resolve=True)
  embedded.L.seed_everything(config.seed)
{lines}
  else:
    raise ValueError(f'Invalid algorithm name: {{config.algo.name}}')
  embedded.MODES[config.mode](diffusion_model, config, tokenizer)


if __name__ == '__main__':
  main()
'''

FILES = {
    "algo.py": "from mdlm_mcd.minihost.algo import *\n\n\nclass MDLM(MDLM):\n  pass\n",
    "dataloader.py": "from mdlm_mcd.minihost.dataloader import *\n"
    "from mdlm_mcd.minihost.dataloader import get_tokenizer\n",
    # Not in main.py, where our name would say that it trains our classes.
    "utils.py": "from logging import getLogger as get_logger\n"
    "from mdlm_mcd.minihost import main as embedded\n",
}


def duo(folder: Path) -> Path:
    """A Duo-like clone in `folder`, trained by `python main.py algo=mdlm`."""
    source = Path(minihost.__file__).parent
    (hunk,) = patches.of(specs.DUO)
    main = MAIN.format(lines="\n".join(hunk.without("+")).rstrip())
    for name, text in {**FILES, "main.py": main}.items():
        (folder / name).write_text(text)
    shutil.copy(source / "trainer_base.py", folder)  # by which it is recognised
    shutil.copytree(source / "configs", folder / "configs", dirs_exist_ok=True)
    return folder


class Schedule(torch.nn.Module):
    """MDLM's log-linear schedule: (sigma, dsigma) instead of (dalpha, alpha)."""

    def forward(self, t):
        return -torch.log1p(-(1 - 1e-3) * t), (1 - 1e-3) / (1 - (1 - 1e-3) * t)


class Diffusion(algo.MDLM):
    """The minihost's model behind MDLM's names, its config at the root."""

    def _validate_configuration(self):
        """MDLM takes any predictor's name, and does not look at it."""

    def __init__(self, config, tokenizer):
        super().__init__(config, tokenizer)
        del self.ignore_bos
        self.noise = Schedule()

    def _process_sigma(self, sigma):
        assert sigma.ndim == 1
        return sigma if self.time_conditioning else torch.zeros_like(sigma)

    def _maybe_sub_sample(self, x0, attention_mask):
        length = self.config.model.length
        return x0[:, :length], None, attention_mask[:, :length]

    def forward(self, x, sigma):
        return super().forward(x, sigma)

    # By which it is recognised.

    def _subs_parameterization(self, logits, xt): ...

    def _loss(self, x0, attention_mask): ...

    def q_xt(self, x, move_chance): ...

    def _sample(self, num_steps=None, eps=1e-5):
        return "the host's own"


diffusion = types.ModuleType("diffusion")
diffusion.Diffusion = Diffusion


@dataclass
class Family:
    """A host in memory, and how its students are built and drawn from."""

    spec: specs.HostSpec
    module: types.ModuleType
    adapter: types.ModuleType
    more: tuple[str, ...] = ()

    def student(self, compose, *overrides):
        config = compose("algo=mcd", "algo.init_from=scratch", *self.more, *overrides)
        torch.manual_seed(3)
        cls = hosts.distiller("MCD", self.spec, self.module)
        model = cls(config, dataloader.get_tokenizer(config)).eval()
        for p in model.backbone.parameters():
            torch.nn.init.normal_(p, std=0.2)
        return model

    def denoiser(self, model):
        return denoiser(model, self.adapter.denoise)

    def draw(self, model, steps=None):
        torch.manual_seed(5)
        if self.spec is specs.MDLM:
            return model._sample(num_steps=steps)
        return model.generate_samples(8, num_steps=steps)

    def expected(self, model, name, steps, **how):
        """The same by the library."""
        torch.manual_seed(5)
        return sampling.sample(
            name,
            self.denoiser(model),
            8,
            16,
            steps,
            mask_index=model.mask_index,
            alpha=lambda t: 1 - (1 - 1e-3) * t,
            vocab_size=model.vocab_size,
            **how,
        ).tokens


DUO = Family(specs.DUO, algo, duo_adapter)
MDLM = Family(specs.MDLM, diffusion, mdlm_adapter, more=("+parameterization=subs",))

each = pytest.mark.parametrize("family", (DUO, MDLM), ids=lambda family: family.spec.name)
