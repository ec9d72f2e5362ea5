"""What would stop a table hours after its start, found before it."""

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


def ready(table: Table, told: Setting) -> None:
    """Raises ConfigError, one sentence that says what is missing and the remedy."""
    if told.out is None:
        raise ConfigError("--out is missing: name the folder that results go to.")
    if told.smoke:
        return
    host(table, told)
    uniform = [run.name for run in table.trained if run.method.uniform]
    checkpoint("--teacher", told.teacher, "the masked model that is distilled")
    if uniform:
        checkpoint(
            "--duo-teacher",
            told.duo_teacher,
            f"the uniform-state model that {uniform[0]} distils (or leave it out with --methods)",
        )
        if told.host is None:
            plain(told.duo_teacher)
    text(told)
    if told.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"--device {told.device}: no CUDA device is there, and at this size a CPU "
            "would take years; --dry-run counts, --smoke tries the chain."
        )
    evaluator(told.evaluator or table.evaluator)


def checkpoint(flag: str, path: str | None, what: str) -> None:
    if not path:
        raise ConfigError(f"{flag} is missing: name a checkpoint of {what}, or `{flag} {TRAIN}`.")
    named = HUB_ID.fullmatch(path) and not path.endswith(FILES)
    if path != TRAIN and not named and not Path(path).exists():
        raise ConfigError(
            f"{flag} {path} is not there: name a checkpoint, a folder or a model on "
            f"the Hub of {what}."
        )


def plain(path: str) -> None:
    """The embedded host samples a uniform-state model out of its own files only."""
    if path == TRAIN or not Path(path).is_file():
        return
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # what a file holds that is none of ours
        raise ConfigError(
            f"--duo-teacher {path} holds more than tensors and plain values, and the "
            "embedded host samples only such a file: name one of its own "
            "algo=duo_base, or give --host a clone of Duo."
        ) from error


def host(table: Table, told: Setting) -> None:
    if told.host is None:
        return
    if not told.host.is_dir():
        raise ConfigError(
            f"--host {told.host} is no folder: name a clone of Duo or MDLM, or leave "
            "it out for the embedded host."
        )
    layout = of_folder(told.host)
    if layout is MDLM and any(run.method.uniform for run in table.trained):
        raise ConfigError(
            f"--host {told.host} is a clone of MDLM, which has no uniform-state "
            "models: use a clone of Duo, or --methods without dcd."
        )
    if layout is MDLM and told.teacher == TRAIN:
        raise ConfigError(
            f"--teacher {TRAIN} goes through `algo=mdlm`, which a clone of MDLM has "
            "not: train it by its own scripts/train_owt_mdlm.sh and name the "
            "checkpoint."
        )
    if told.data:
        raise ConfigError(
            "--data is for the embedded host: give a clone its data by an override, data=NAME."
        )
    if not told.cache:
        raise ConfigError(
            f"--cache is missing: {told.host} names a folder of its authors' cluster, "
            "so say where data is to be kept."
        )


def text(told: Setting) -> None:
    for flag, paths in (("--data", told.data), ("--held-out", told.held_out)):
        for path in paths:
            if not glob.glob(path, recursive=True):
                raise ConfigError(f"{flag} {path} is not there: name a text file.")
    if not told.data and not told.held_out:
        raise ConfigError(
            "--held-out is missing: name files of text that no model has seen, for "
            "example the end of OpenWebText (docs/paper_setting.md has the command)."
        )
    needs = told.host is None and not told.data
    if needs and importlib.util.find_spec("datasets") is None:
        raise ConfigError(
            "OpenWebText is read with the package datasets, which is not installed: "
            "`pip install 'mdlm-mcd[data]'`, or name text files with --data."
        )


def evaluator(name: str) -> None:
    """Its config and tokenizer, a few megabytes: who has them may have the rest."""
    import transformers

    try:
        transformers.AutoConfig.from_pretrained(name)
        transformers.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError, ImportError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        gated = "llama" in name.lower()
        raise ConfigError(
            f"--evaluator {name} is not reachable ({said.rstrip('.')}): "
            + ("accept its licence on the Hub and log in (`hf auth login`), or " * gated)
            + "name a local folder with the model and its tokenizer."
        ) from error
