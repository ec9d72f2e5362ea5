"""Open models of any host from their weights alone, to be sampled and measured.

MDLM, Duo's masked models, the embedded host and the released folders name the same
parameters, so the embedded DiT carries them all. No host is imported; its code is not
run, nor is any that comes with a file.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..checkpoints import checkpoint_config, identity, weights
from ..checkpoints.checkpoint_config import section
from ..checkpoints.files import ASSETS, SHIPPED, expanded
from ..coupling import Alpha
from ..errors import CheckpointError, ConfigError, border, require_one_of, shown
from ..minihost import dataloader
from ..models import dit, vocabulary
from ..models.noise import NOISES
from ..sampling import Denoise
from ..sampling.denoiser import denoiser


@dataclass(frozen=True)
class Candidate:
    """A model as the evaluation sees it, whatever it was opened from.

    denoise: see `sampling`; alpha: its signal schedule; length: tokens in a sequence; tokenizer:
    a Hugging Face one; provenance: columns of the results file, with the `sha256` of its weights,
    by which a sweep that goes on knows it. generate(count, steps, generator): draws (count,
    length) tokens in place of our samplers, for a model that is not masked; without a denoiser it
    has no bounds. bos: the first token of each sequence where the model, trained with
    algo.ignore_bos, never saw it masked: it is given.
    """

    label: str
    denoise: Denoise | None
    alpha: Alpha
    mask_index: int
    vocab_size: int
    length: int
    tokenizer: Any
    device: str = "cpu"
    provenance: dict[str, Any] = field(default_factory=dict)
    generate: Callable[[int, int, torch.Generator], Tensor] | None = None
    bos: int | None = None

    def free(self, tokens: Tensor) -> Tensor | None:
        """Return which of tokens (rows, length) the model may see masked; None: all."""
        if self.bos is None:
            return None
        return (torch.arange(tokens.shape[1]) > 0).expand(tokens.shape)

    def noise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (dalpha_t, alpha_t) at t (batch,), as the hosts' schedules have it."""
        with torch.enable_grad():
            t = t.detach().requires_grad_()
            alpha_t = self.alpha(t)
            (dalpha_t,) = torch.autograd.grad(alpha_t.sum(), t)
        return dalpha_t, alpha_t.detach()


ASKED = {  # by flags, where a file does not say it
    "model_length": "--length N",
    "n_heads": "--heads N",
    "time_conditioning": "--time-conditioning or --no-time-conditioning",
}


def sizes(
    opened: weights.Weights, given: Mapping[str, Any], source: str, process: str = "subs"
) -> dict[str, Any]:
    """Return the model's sizes in MDLMConfig's words: the tensors', else the config's.

    process: of weights.PROCESSES; a causal network, `ar`, has no cond_dim.
    """
    tensors, known = opened.state_dict, weights.model_sizes(opened.config)
    weights.check_process(opened, source, process)
    vocab_size, hidden_dim = _shape(tensors, "vocab_embed.embedding", source)
    timed = process != "ar"
    cond_dim = _shape(tensors, "sigma_map.mlp.2.weight", source)[0] if timed else None
    blocks = {m[1] for k in tensors if (m := re.match(r"blocks\.(\d+)\.", k))}
    if weights.ROTARY in tensors:
        known["n_heads"] = hidden_dim // max(1, 2 * tensors[weights.ROTARY].numel())
    for name in given.keys() & known.keys():
        if given[name] != known[name]:
            raise ConfigError(
                f"{source} says its {name} is {known[name]}, and the command line "
                f"{given[name]}: leave that flag out."
            )
    known = {"dropout": 0.1, **known, **given}
    for name, flag in ASKED.items():
        if name not in known:
            raise ConfigError(f"{source} does not say its {name}: give {flag}.")
    return {
        "vocab_size": vocab_size,
        "hidden_dim": hidden_dim,
        "cond_dim": cond_dim,
        "n_blocks": len(blocks),
        **{k: known[k] for k in ("model_length", "n_heads", "dropout", "time_conditioning")},
    }


def _shape(tensors: Mapping[str, Tensor], name: str, source: str) -> Sequence[int]:
    found = tensors.get(name)
    if found is None or found.dim() != 2:
        raise CheckpointError(
            f"{source} has no {name} of two dimensions, so it is no masked DiT as MDLM "
            "and Duo train it: name a checkpoint of such a model."
        )
    return found.shape


def build(
    opened: weights.Weights, sizes: Mapping[str, Any], which: str, source: str
) -> tuple[dit.DIT, str]:
    """Return the network with the chosen weights, in float32, and the words for them."""
    model = {**sizes, "hidden_size": sizes["hidden_dim"]}
    size, causal = sizes["vocab_size"], sizes["cond_dim"] is None
    checkpoint_config.check_room(model, size, causal, opened.state_dict, source)
    backbone = dit.DIT({"model": model, "algo": {"causal_attention": causal}}, size)
    named, key = backbone.named_parameters(), "--weights"
    return backbone, weights.load_weights(backbone, named, opened, which, source, key)


DUO_SCHEDULES = {**NOISES, "loglinear": NOISES["log-linear"]}
# Of t and of a config's settings; its log-linear is Duo's, its cosine is not.
MDLM_SCHEDULES: dict[str, Callable[..., Tensor]] = {
    "cosine": lambda t, eps, **_: eps + (1 - eps) * torch.cos(math.pi / 2 * t),
    "linear": lambda t, sigma_min, sigma_max, **_: torch.exp(
        -(sigma_min + t * (sigma_max - sigma_min))
    ),
    "geometric": lambda t, sigma_min, sigma_max, **_: torch.exp(
        -(sigma_min ** (1 - t) * sigma_max**t)
    ),
}


def schedule(config: Mapping[str, Any], source: str) -> Alpha:
    """Return alpha(t) of the schedule that a host's config names; log-linear without one.

    Raises ConfigError for one that is not known, or does not fall from 1 to 0.
    """
    noise = section(config, "noise")
    kind = shown(noise.get("type", "log-linear"))
    # MDLM's settings stand at the root.
    of_mdlm = MDLM_SCHEDULES if "parameterization" in config else {}
    require_one_of(list(DUO_SCHEDULES | of_mdlm), f"{source}: noise.type", kind)
    # MDLM's own log-linear and cosine have this eps and take none from the config.
    names = ("sigma_min", "sigma_max") if of_mdlm else ("eps",)
    settings = {"eps": 1e-3} | {k: noise[k] for k in names if noise.get(k) is not None}

    def alpha(t: Tensor) -> Tensor:
        if kind in of_mdlm:
            return of_mdlm[kind](t, **settings)
        return DUO_SCHEDULES[kind](settings["eps"])(t)[1]

    named = ", ".join(f"{k}={shown(v)}" for k, v in settings.items())
    with border(f"{source} has noise.type={kind} with {named}", "name another checkpoint"):
        ends = alpha(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
        if not bool(((ends >= 0) & (ends <= 1)).all() and (ends.diff() <= 0).all()):
            raise ValueError("it does not fall from 1 to 0")
    return alpha


@dataclass(frozen=True)
class Source:
    """What the command line says of one model: [LABEL=]CKPT, weights and tokenizer."""

    label: str
    path: str
    which: str = "ema"
    tokenizer: str | None = None

    @classmethod
    def parse(cls, text: str, **rest: Any) -> Source:
        label, equals, path = text.partition("=")
        if equals and not os.path.exists(text):
            return cls(label, path, **rest)
        # `checkpoints` says nothing; the folder above it is the run.
        file = Path(text)
        folder = file.parent.parent if file.parent.name == "checkpoints" else file.parent
        short = "/".join([*folder.parts[-1:], file.stem])
        return cls(short if file.suffix else text, text, **rest)


def _family(config: Mapping[str, Any]) -> str:
    if "mdlm_mcd" in config or "auto_map" in config or config.get("model_type"):
        return "Hugging Face"
    if "parameterization" in config:
        return "MDLM"
    data = section(config, "data")
    if {"text_key", "max_chars", "packages"} & data.keys() or data.get("train") in dataloader.LOCAL:
        return "minihost"
    return "Duo" if "algo" in config else "unknown"


def tokenizer_of(opened: weights.Weights, source: Source) -> Any:
    """Return the tokenizer that a checkpoint names, or the one that was given for it."""
    if source.tokenizer is not None:
        return given_tokenizer(source.tokenizer, opened.config)
    key, data = f"CKPT={source.path}", checkpoint_config.data(opened.config)
    folder = expanded(source.path, "CKPT")
    if Path(folder, "tokenizer.json").is_file():
        data = {"tokenizer_name_or_path": folder}  # an exported one
    if "tokenizer_name_or_path" not in data:
        raise ConfigError(
            f"{key} does not say its tokenizer: give --tokenizer with a "
            "folder or a Hub name, e.g. --tokenizer gpt2."
        )
    try:
        return _tokenizer(data, opened.config, key)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error} Or give --tokenizer.") from error


def given_tokenizer(name: str, config: Mapping[str, Any]) -> Any:
    """Return the tokenizer that --tokenizer names: a folder, a Hub name, or `bpe`.

    `bpe` is the embedded host's own, trained on the text that a checkpoint's config
    names. Raises ConfigError, and CheckpointError for a config without such text.
    """
    bpe = name == "bpe"
    if bpe and not section(config, "data"):
        raise ConfigError(
            "--tokenizer bpe is the embedded host's own, and the checkpoint is not of "
            "that host: give the folder or the Hub name of a tokenizer."
        )
    data = {**(checkpoint_config.data(config) if bpe else {}), "tokenizer_name_or_path": name}
    return _tokenizer(data, config, f"--tokenizer {name}: the checkpoint", key="--tokenizer ")


def _tokenizer(data: Mapping[str, Any], config: Mapping[str, Any], source: str, **how: str) -> Any:
    with checkpoint_config.used(source):
        found = dataloader.get_tokenizer(checkpoint_config.literal({"data": data}), **how)
    identity.check_tokenizer(config, found, "the checkpoint")
    return found


def mask_index(tokenizer: Any, size: int, source: str) -> int:
    """Return the mask's id; raise ConfigError for a tokenizer of another vocabulary than `size`."""
    count, found = vocabulary.masked(tokenizer, size)
    if count != size:
        raise ConfigError(
            f"{source} has a vocabulary of {size}, and its tokenizer makes one of {count}, mask "
            "included: give --tokenizer with its own."
        )
    return found


def open_model(source: Source, device: str = "cpu") -> Candidate:
    """Return a model ready to be sampled and measured, in eval mode.

    Raises CheckpointError and ConfigError for what cannot be opened or does not fit
    its tokenizer.
    """
    key = f"CKPT={source.path}"
    opened = weights.read_weights(source.path, "CKPT")
    found = sizes(opened, {}, key)
    tokenizer, size = tokenizer_of(opened, source), found["vocab_size"]
    mask = mask_index(tokenizer, size, key)
    backbone, taken = build(opened, found, source.which, key)
    backbone.to(device).eval().requires_grad_(False)
    timed, noted, alpha = found["time_conditioning"], opened.mdlm_mcd, schedule(opened.config, key)
    host = SimpleNamespace(backbone=backbone, time_conditioning=timed, device=device)
    # The weights' hash, whatever file they are in; another schedule draws other samples of them.
    decisive, times = backbone.state_dict(), torch.linspace(0, 1, 9, dtype=torch.float64)
    if not torch.equal(alpha(times), schedule({}, key)(times)):
        decisive = {**decisive, "alpha": alpha(times)}
    if timed:
        decisive = {**decisive, "time_conditioning": torch.ones(1)}
    algo, teacher = section(opened.config, "algo"), noted.get("teacher_path")
    bos = tokenizer.bos_token_id if algo.get("ignore_bos") else None
    if bos is not None:
        decisive = {**decisive, "bos": torch.tensor(bos)}
    return Candidate(
        label=source.label,
        denoise=denoiser(
            host, lambda model, network, z, alpha_t, labels: network(z, -alpha_t.log())
        ),
        alpha=alpha,
        mask_index=mask,
        vocab_size=size,
        length=found["model_length"],
        tokenizer=tokenizer,
        device=device,
        bos=bos,
        provenance={
            "checkpoint": os.path.basename(os.path.normpath(source.path)),
            "sha256": identity.sha256(decisive),
            "weights": taken,
            "global_step": opened.global_step,
            "algo": noted.get("algo") or algo.get("name") or "mdlm",
            "loss": noted.get("loss"),
            "round": noted.get("round"),
            "recipe": noted.get("settings"),
            "teacher": os.path.basename(teacher) or None if isinstance(teacher, str) else None,
            "host": _family(opened.config),
        },
    )


def held_out(source: Source, model: Candidate, most: int, files: Sequence[str]) -> Tensor:
    """Return up to `most` rows, (rows, model.length), of text the model has not seen.

    files: UTF-8 files or globs; without any, the validation split of a checkpoint of
    the embedded host. Raises ConfigError when there is no text.
    """
    data = checkpoint_config.data(weights.read_weights(source.path, "CKPT").config)
    if source.path in SHIPPED and not files:
        files = [str(ASSETS / "text" / "valid.txt")]
    if files:
        own = {"valid": "textfile", "valid_files": list(files), "separator": None}
        data = {**own, "wrap": True, "insert_valid_eos": True, "cache_dir": data["cache_dir"]}
    elif data.get("valid") not in dataloader.TEXTS:
        raise ConfigError(
            f"CKPT={source.path} names no running text that is on this disk: give --corpus "
            "with files of text that the models have not seen."
        )
    config = checkpoint_config.literal({"data": data, "model": {"length": model.length}})
    try:
        with checkpoint_config.used(f"CKPT={source.path}"):
            rows = dataloader.get_dataset(
                config, model.tokenizer, "valid", size=model.vocab_size, mask_index=model.mask_index
            )
    except ConfigError as error:
        raise ConfigError(f"--corpus: {error}") from error
    # Whole rows only: padding would be counted as text.
    every = (rows[i] for i in range(len(rows)))
    whole = (row["input_ids"] for row in every if row["attention_mask"].all())
    if not (found := list(itertools.islice(whole, most))):
        raise ConfigError(f"--corpus holds no row of {model.length} tokens: give more text.")
    return torch.stack(found)
