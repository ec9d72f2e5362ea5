"""A clone made of the minihost: Duo's spec on disk, not patched.

Its main.py holds the lines that our patch changes, taken from the patch itself, so
that everything about patching and launching runs without a real clone.
"""

from pathlib import Path

from mdlm_mcd import minihost
from mdlm_mcd.hosts import patches
from mdlm_mcd.hosts.specs import DUO

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
        text = text.replace("from .. import", "from mdlm_mcd import")
        text = text.replace("from . import trainer_base", "import trainer_base")
        text = text.replace("from . import", "from mdlm_mcd.minihost import")
        text = text.replace("from .. import", "from mdlm_mcd import")
        text = text.replace("from ..", "from mdlm_mcd.").replace(
            "from .", "from mdlm_mcd.minihost."
        )
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
