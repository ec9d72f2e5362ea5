"""Make a config's paths absolute: they start at the folder the run is launched from."""

import glob
import os
from collections.abc import Mapping

from hydra.utils import to_absolute_path
from omegaconf import OmegaConf

from ..checkpoints.files import SHIPPED, expanded

# In this order: what is built on one of them follows it.
PATHS = (
    "checkpointing.save_dir",
    "checkpointing.resume_ckpt_path",
    "data.files",
    "data.valid_files",
    "data.cache_dir",
    "eval.generated_samples_path",
)
# Paths where there is such a file or folder, else a name on the Hugging Face Hub.
NAMES = (
    "data.train",
    "data.valid",
    "data.data_files",
    "data.tokenizer_name_or_path",
    "training.finetune_path",
    "algo.teacher_path",
    "eval.checkpoint_path",
    "eval.gen_ppl_eval_model_name_or_path",
)
PATTERNS = ("data.files", "data.valid_files")  # the launch folder's own name is none
# Never a path: this host's own, and the loaders of the package datasets. What is shipped keeps
# its name, by which a checkpoint finds it on another machine.
WORDS = "bpe prose shipped stdlib textfile textpairs".split()
WORDS += ["arrow", "csv", "json", "parquet", "text", "xml", "webdataset", *SHIPPED]
# Where Lightning's objects name their folders, as in `dirpath` and `save_dir`.
SECTIONS = ("callbacks", "logger", "trainer")


def make_absolute(config) -> None:
    """Replace the relative paths of a run's config, wherever Hydra has moved to.

    `~` is expanded; URLs, and names that are no file here, stay as they are.
    """
    folders = [key for name in SECTIONS for key in _folders(config, name)]
    for key in (*PATHS, *NAMES, *folders):
        value = OmegaConf.select(config, key)
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=True)
        found = _absolute(value, key)
        if found != value:
            OmegaConf.update(config, key, found, merge=False)


def _absolute(value, key):
    if isinstance(value, Mapping):
        return {name: _absolute(part, key) for name, part in value.items()}
    if isinstance(value, list):
        return [_absolute(part, key) for part in value]
    if not isinstance(value, str) or not value or "://" in value:
        return value
    path = to_absolute_path(given := expanded(value, key))
    if key in PATTERNS and not (os.path.isabs(given) or os.path.exists(path)):
        path = os.path.join(glob.escape(to_absolute_path(".")), given)
    if key in NAMES and (value in WORDS or not (os.path.exists(path) or glob.glob(path))):
        path = value
    return path.replace("${", "\\${")  # a name's own, which is no interpolation


def _folders(config, name):
    """Yield dotted keys inside a section that end in `dir` or `dirpath`."""
    section = OmegaConf.select(config, name)
    for key in section if OmegaConf.is_dict(section) else ():
        inside = f"{name}.{key}"
        if str(key).endswith(("dir", "dirpath")):
            yield inside
        yield from _folders(config, inside)
