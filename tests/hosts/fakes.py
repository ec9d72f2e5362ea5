"""Hosts made of the minihost: Duo's spec on disk, not patched, and MDLM's in memory.

The clone's main.py has the lines that our patch changes, taken from the patch itself, so
that everything about patching and launching runs without a real clone.
"""

import types
from pathlib import Path

import torch

from mdlm_mcd import minihost
from mdlm_mcd.hosts import patches
from mdlm_mcd.hosts.specs import DUO
from mdlm_mcd.minihost import algo

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


def duo(folder: Path) -> Path:
    """A Duo-like clone in `folder`, trained by `python main.py algo=mdlm`."""
    source = Path(minihost.__file__).parent
    for name in ("algo.py", "trainer_base.py"):
        text = (source / name).read_text("utf-8")
        for old, new in (
            ("from .. import", "from mdlm_mcd import"),
            ("from . import trainer_base", "import trainer_base"),
            ("from . import", "from mdlm_mcd.minihost import"),
            ("from ..", "from mdlm_mcd."),
            ("from .", "from mdlm_mcd.minihost."),
        ):
            text = text.replace(old, new)
        (folder / name).write_text(text)
    (folder / "dataloader.py").write_text(
        "from mdlm_mcd.minihost.dataloader import *\n"
        "from mdlm_mcd.minihost.dataloader import get_tokenizer\n"
    )
    # Not in main.py, where our name would say that it trains our classes.
    (folder / "utils.py").write_text(
        "from logging import getLogger as get_logger\n"
        "from mdlm_mcd.minihost import main as embedded\n"
    )
    (hunk,) = patches.of(DUO)
    main = MAIN.format(lines=hunk.before.decode().rstrip())
    main = main.replace("import hydra\n", "import hydra\nfrom omegaconf import OmegaConf\n")
    (folder / "main.py").write_text(main)
    for path in (source / "configs").rglob("*.yaml"):
        to = folder / "configs" / path.relative_to(source / "configs")
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(path.read_bytes())
    return folder


def patchable(folder: Path, spec, newline="\n") -> Path:
    """Files in which the spec's patch fits, and little else."""
    folder.mkdir(parents=True, exist_ok=True)
    texts: dict[str, str] = {}
    for i, hunk in enumerate(patches.of(spec)):
        filler = f"# before {i}\n"
        texts[hunk.file] = texts.get(hunk.file, "") + filler + hunk.before.decode()
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        text = (text + "# the end, without a newline").replace("\n", newline)
        (folder / name).write_bytes(text.encode())
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

    def _subs_parameterization(self, logits, xt):
        raise NotImplementedError

    def _sample(self, num_steps=None, eps=1e-5):
        return "the host's own"


diffusion = types.ModuleType("diffusion")
diffusion.Diffusion = Diffusion
