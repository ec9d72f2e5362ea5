"""Find what would stop a table hours after its start, before it starts."""

from __future__ import annotations

import glob
import importlib.util
from pathlib import Path

import torch

from mdlm_mcd.checkpoints.weights import HUB_ID
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.hosts.specs import MDLM, of_folder

from .chain import TRAIN, Setting
from .experiments import Table

FILES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")


def ready(table: Table, given: Setting) -> None:
    """Raise ConfigError: one sentence that says what is missing, and the remedy."""
    if given.out is None:
        raise ConfigError("--out is missing: name the folder that results go to.")
    if given.smoke:
        return
    uniform = next((run.name for run in table.trained if run.method.uniform), None)
    if given.host:
        host(given, uniform)
    checkpoint("--teacher", given.teacher, "the masked model that is distilled")
    if uniform:
        what = f"the uniform-state model that {uniform} distils (or leave it out with --methods)"
        checkpoint("--duo-teacher", given.duo_teacher, what)
        if given.host is None:
            plain(given.duo_teacher)
    text(given)
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"--device {given.device}: no CUDA device is there, and at this size a CPU would take "
            "years; --dry-run counts, --smoke tries the chain."
        )
    evaluator(given.evaluator or table.evaluator)


def checkpoint(flag: str, path: str | None, what: str) -> None:
    if not path:
        raise ConfigError(f"{flag} is missing: name a checkpoint of {what}, or `{flag} {TRAIN}`.")
    named = HUB_ID.fullmatch(path) and not path.endswith(FILES)
    if path != TRAIN and not named and not Path(path).exists():
        raise ConfigError(
            f"{flag} {path} is not there: name a checkpoint, a folder or a model on the Hub of "
            f"{what}."
        )


def plain(path: str) -> None:
    """The embedded host samples a uniform-state model out of its own files only."""
    if path == TRAIN or not Path(path).is_file():
        return
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # anything may be in a file of others
        raise ConfigError(
            f"--duo-teacher {path} holds more than tensors and plain values, and the embedded "
            "host samples only such a file: name one of its own algo=duo_base, or give --host a "
            "clone of Duo."
        ) from error


def host(given: Setting, uniform: str | None) -> None:
    where = f"--host {given.host}"
    if not given.host.is_dir():
        raise ConfigError(f"{where} is no folder: name a clone of Duo or MDLM, or leave it out.")
    if of_folder(given.host) is MDLM:
        if uniform:
            raise ConfigError(
                f"{where} is a clone of MDLM, which has no uniform-state models: use a clone of "
                f"Duo, or --methods without {uniform}."
            )
        if given.teacher == TRAIN:
            raise ConfigError(
                f"--teacher {TRAIN} needs `algo=mdlm`, which a clone of MDLM does not have: train "
                "it by its own scripts/train_owt_mdlm.sh and name the checkpoint."
            )
    if given.data:
        raise ConfigError(
            "--data is for the embedded host: give a clone its data by an override, data=NAME."
        )
    if not given.cache:
        raise ConfigError(
            f"--cache is missing: the config of {given.host} names a folder of its authors' "
            "cluster, so say where data is to be kept."
        )


def text(given: Setting) -> None:
    for flag, paths in (("--data", given.data), ("--held-out", given.held_out)):
        missing = [path for path in paths if not glob.glob(path, recursive=True)]
        if missing:
            raise ConfigError(f"{flag} {missing[0]} is not there: name a text file.")
    if not given.data and not given.held_out:
        raise ConfigError(
            "--held-out is missing: name files of text that no model has seen, for example the "
            "end of OpenWebText (docs/paper_setting.md has the command)."
        )
    if not given.data and given.host is None and importlib.util.find_spec("datasets") is None:
        raise ConfigError(
            "OpenWebText is read with the package datasets, which is not installed: `pip install "
            "'mdlm-mcd[data]'`, or name text files with --data."
        )


def evaluator(name: str) -> None:
    """Fetch its config and tokenizer, a few megabytes: who has them may have the rest."""
    import transformers

    try:
        transformers.AutoConfig.from_pretrained(name)
        transformers.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError, ImportError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        licence = "accept its licence on the Hub and log in (`hf auth login`), or "
        raise ConfigError(
            f"--evaluator {name} is not reachable ({why}): {licence * ('llama' in name.lower())}"
            "name a local folder with the model and its tokenizer."
        ) from error
