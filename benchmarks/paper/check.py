"""Find what would stop a table hours after its start, before it starts."""

from __future__ import annotations

import glob
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import torch

from mdlm_mcd.checkpoints.weights import HUB_ID
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.hosts.specs import MDLM, of_folder

from .chain import TRAIN
from .experiments import Table

FILES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")


def ready(table: Table, given: Namespace) -> None:
    """Raise ConfigError: one sentence that says what is missing, and the remedy."""
    for sentence in problems(table, given):
        raise ConfigError(sentence)


def problems(table: Table, given: Namespace) -> Iterator[str]:
    if given.out is None:
        yield "--out is missing: name the folder that results go to."
    if given.smoke:
        return
    uniform = next((run.name for run in table.trained if run.method.uniform), None)
    if given.host:
        yield from of_host(given, uniform)
    yield from of_checkpoint("--teacher", given.teacher, "the masked model that is distilled")
    if uniform:
        what = f"the uniform-state model that {uniform} distils (or leave it out with --methods)"
        yield from of_checkpoint("--duo-teacher", given.duo_teacher, what)
        if given.host is None and not opens(given.duo_teacher):
            yield (
                f"--duo-teacher {given.duo_teacher} holds more than tensors and plain values, and "
                "the embedded host samples only such a file: name one of its own algo=duo_base, "
                "or give --host a clone of Duo."
            )
    for path in given.held_out:
        if not glob.glob(path, recursive=True):
            yield f"--held-out {path} is not there: name a text file."
    if not given.data and not given.held_out:
        yield (
            "--held-out is missing: name files of text that no model has seen, for example the "
            "end of OpenWebText (docs/paper_setting.md has the command)."
        )
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        yield (
            f"--device {given.device}: no CUDA device is there, and at this size a CPU would take "
            "years; --dry-run counts, --smoke tries the chain."
        )
    yield from of_evaluator(given.evaluator or table.evaluator)


def of_checkpoint(flag: str, path: str | None, what: str) -> Iterator[str]:
    if not path:
        yield f"{flag} is missing: name a checkpoint of {what}, or `{flag} {TRAIN}`."
    elif path != TRAIN and not Path(path).exists():
        if path.endswith(FILES) or not HUB_ID.fullmatch(path):
            yield (
                f"{flag} {path} is not there: name a checkpoint, a folder or a model on the Hub "
                f"of {what}."
            )


def opens(path: str) -> bool:
    """Return whether the embedded host could open a file to sample it."""
    if path == TRAIN or not Path(path).is_file():
        return True
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # anything may be in a file of others
        return False
    return True


def of_host(given: Namespace, uniform: str | None) -> Iterator[str]:
    where = f"--host {given.host}"
    if of_folder(given.host) is MDLM:
        if uniform:
            yield (
                f"{where} is a clone of MDLM, which has no uniform-state models: use a clone of "
                f"Duo, or --methods without {uniform}."
            )
        if given.teacher == TRAIN:
            yield (
                f"--teacher {TRAIN} needs `algo=mdlm`, which a clone of MDLM does not have: train "
                "it by its own scripts/train_owt_mdlm.sh and name the checkpoint."
            )
    if not given.cache:
        yield (
            f"--cache is missing: the config of {given.host} names a folder of its authors' "
            "cluster, so say where data is to be kept."
        )


def of_evaluator(name: str) -> Iterator[str]:
    """Fetch config and tokenizer, a few megabytes: who has them may have the rest."""
    import transformers

    try:
        transformers.AutoConfig.from_pretrained(name)
        transformers.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError, ImportError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        licence = "accept its licence on the Hub and log in (`hf auth login`), or "
        yield (
            f"--evaluator {name} is not reachable ({why}): {licence * ('llama' in name.lower())}"
            "name a local folder with the model and its tokenizer."
        )
