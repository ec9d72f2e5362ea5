"""Compare the run that wrote a checkpoint with the one that would go on from it.

A checkpoint is labelled with the settings of the run that saves it, so a run that goes
on with others would put its own labels on weights that they did not make.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError, shown
from . import sanitize
from .sanitize import section

# Every setting of these sections changes the result, but for FREE.
SECTIONS = tuple("algo. model. data. noise. optim. lr_scheduler. training.".split())
FREE = {
    "algo.guard",
    "algo.head_chunk",
    "algo.min_entropy",
    "algo.teacher_placement",
    "algo.teacher_path",  # by its weights
    "data.cache_dir",
    "model.checkpointing",
}
# Duo has its models' settings in `algo`, MDLM at the root.
SINGLE = {"seed", "loader.global_batch_size", "diffusion", "backbone", "parameterization"}
SINGLE |= {"time_conditioning", "T", "subs_masking"}
# Lightning's defaults, where a config does not name them.
TRAINER = {
    "trainer.gradient_clip_val": 0,
    "trainer.gradient_clip_algorithm": "norm",
    "trainer.precision": "32-true",
    # They decide where an epoch ends, and so the order of the rows.
    "trainer.limit_train_batches": 1.0,
    "trainer.overfit_batches": 0.0,
}
PRECISIONS = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}
ROWS = "data.rows_sha256"  # of the training rows, where a host knows them
TOKENIZER = "tokenizer_sha256"  # of the tokens and their ids: in `data`, exported in `mdlm_mcd`


def sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors: names, dtypes, shapes and bytes."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        sha.update(value.view(-1).view(torch.uint8).numpy())
    return sha.hexdigest()


def tokenizer_sha256(tokenizer: Any) -> str:
    """Return the SHA-256 of a tokenizer's tokens and their ids."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


def noted_tokenizer(config: Mapping[str, Any]) -> Any:
    """Return the digest that a checkpoint's or a folder's config notes, or None."""
    return section(config, "data").get(TOKENIZER) or section(config, "mdlm_mcd").get(TOKENIZER)


def check_tokenizer(config: Mapping[str, Any], tokenizer: Any, source: str) -> bool:
    """Refuse a tokenizer whose ids are other tokens than those that `source` learned.

    config: the checkpoint's. Return whether it notes a digest, as older ones do not.
    Raises ConfigError.
    """
    was = noted_tokenizer(config)
    if was is None:
        return False
    if was != (now := tokenizer_sha256(tokenizer)):
        raise ConfigError(
            f"{source} learned the tokens of a tokenizer of SHA-256 {shown(was, 12)}, and "
            f"data.tokenizer_name_or_path={tokenizer.name_or_path or 'bpe'} has {shown(now, 12)}: "
            "bpe is trained on the training documents, so name the text of that run, as it was, or "
            "a folder of its tokenizer (`mdlm-mcd export CKPT FOLDER --tokenizer bpe` writes one)."
        )
    return True


def config_of(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the config inside a checkpoint; empty where there is none."""
    try:
        return sanitize.copy(section(section(checkpoint, "hyper_parameters"), "config"))
    except ValueError:  # nested beyond reason
        return {}


def check(
    checkpoint: Mapping[str, Any], config: Mapping[str, Any], path: str, free: Collection[str] = ()
) -> None:
    """Refuse to go on with other settings than those that made the checkpoint.

    config: this run's, resolved, in plain containers. Keys that only one of the two has
    are not compared: older checkpoints lack newer keys. free: keys that may differ.
    Raises CheckpointError.
    """
    was, now = _settings(config_of(checkpoint)), _settings(config)
    free = {*FREE, *free}
    if ROWS in was and was[ROWS] == now.get(ROWS):
        # The same rows, wherever their text lies and whatever made them.
        free |= {key for key in was if key.startswith("data.")}
    if not now.get("training.ema"):
        free.add("training.ema")  # from here on there is no average
    both = [key for key in was if key in now.keys() - free]
    if differ := [(k, was[k], now[k]) for k in both if not is_same(was[k], now[k])]:
        refuse(path, differ)


def refuse(path: str, differ: Sequence[tuple[str, Any, Any]]) -> NoReturn:
    """Raise the CheckpointError that names the first differences, and the remedy.

    differ: (key, the checkpoint's value, this run's) of each.
    """

    def named(key: str, value: Any) -> str:
        if key == ROWS:
            return f"training rows of SHA-256 {shown(value, 12)}"
        return f"{key}={shown(str(value), 200)}"

    was, now = (", ".join(named(d[0], d[i]) for d in differ[:4]) for i in (1, 2))
    others = f" ({len(differ) - 4} more differ)" if len(differ) > 4 else ""
    raise CheckpointError(
        f"checkpointing.resume_ckpt_path={path} was written by a run with {was}, and this one has "
        f"{now}{others}: go on with the settings of that run, or start another one, with another "
        "hydra.run.dir and no checkpointing.resume_ckpt_path."
    )


def resplit(checkpoint: Mapping[str, Any], was: int, now: int) -> None:
    """Let a run with other micro-batches a step go on; rows and noise know no split.

    Lightning counts micro-batches, and tells by them where a step ends.
    """
    batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (batches["total"], batches["current"]):
        uncounted = counts["processed"] - counts["completed"]  # as it is written
        for name, count in counts.items():
            counts[name] = count * now // was
        counts["completed"] = counts["processed"] - uncounted


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that change a result, by their dotted keys."""
    flat = dict(_flat(config))
    if flat.get("algo.name") == "cd4lm" and "algo.coupling" in flat:
        # What 0.1.0 called so is `algo=subset` now, and `algo=cd4lm` another method.
        flat |= {"algo.name": "subset", "algo._target_": "mdlm_mcd.hosts.Subset"}
    if section(config, "trainer"):
        for key, default in TRAINER.items():
            flat[key] = default if flat.get(key) is None else flat[key]
        precision = flat["trainer.precision"]
        flat["trainer.precision"] = PRECISIONS.get(str(precision), precision)
    counted = SINGLE | TRAINER.keys()
    if isinstance(flat.get("trainer.limit_train_batches"), int):
        counted.add("trainer.accumulate_grad_batches")  # a whole limit counts micro-batches
    return {k: v for k, v in flat.items() if k in counted or k.startswith(SECTIONS)}


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def is_same(a: Any, b: Any) -> bool:
    """Return whether two values of a setting are the same, as numbers or as paths.

    Older checkpoints name paths as they were given, relative to some folder.
    """
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(is_same, a, b))
    if isinstance(a, str) and isinstance(b, str) and os.path.isabs(b) > os.path.isabs(a):
        return b.endswith(os.sep + os.path.normpath(a))
    return a == b or number(a) == number(b)


def number(value: Any) -> Any:
    """Return the number that a text is (1/512, 6e-5), and all else as it is."""
    try:
        return float(Fraction(value)) if isinstance(value, str) else value
    except (ValueError, ZeroDivisionError, OverflowError):
        return value
