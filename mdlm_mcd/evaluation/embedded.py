"""The embedded host from outside: run its `main`, open its checkpoints."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ..checkpoints import checkpoint_config, weights
from ..errors import ConfigError
from ..minihost import algo, dataloader
from ..minihost import main as entry
from ..minihost.corpus import existing_path
from ..models import vocabulary
from ..sampling.denoiser import denoiser as sparse_denoiser

ENTRY = "mdlm_mcd.minihost.main"


def run(
    overrides: Sequence[str], log: Path, on_line=None, env: dict[str, str] | None = None
) -> int:
    """`python -m mdlm_mcd.minihost.main OVERRIDES`, its output appended to `log`.

    on_line(text) sees each line as it comes. Answers the exit status; the child goes
    when we go (it is interrupted with us and otherwise terminated).
    """
    command = [sys.executable, "-m", ENTRY, *overrides]
    with log.open("a", encoding="utf-8") as file:
        file.write("$ " + " ".join(command[1:]) + "\n")
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
        )
        try:
            for line in process.stdout:
                file.write(line)
                file.flush()
                if on_line is not None:
                    on_line(line)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()
    return process.returncode


_SIZES = ("hidden_size", "cond_dim", "n_blocks", "n_heads", "dropout")


@contextlib.contextmanager
def ours():
    """The host's refusals as ours, which `mdlm-mcd` prints."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(str(error)) from error


@ours()
def open_model(path: str | Path, ema: bool = True):
    """A trained model of this host in eval mode, as its checkpoint describes it.

    A student opens as the plain model it is: MDLM, or DUO_BASE for a uniform-state
    one. Returns (model, tokenizer). Raises CheckpointError and ConfigError.
    """
    path, source = existing_path(str(path), "CKPT"), f"CKPT={path}"
    held = weights.read_weights(path, "CKPT")
    entry.register_resolvers()
    config = {**held.config, "data": checkpoint_config.data(held.config)}
    # The file does not choose what is run, or where a model is fetched from.
    config["algo"] = {**checkpoint_config.section(config, "algo"), "backbone": "dit"}
    config["eval"] = {**checkpoint_config.section(config, "eval"), "checkpoint_path": ""}
    with checkpoint_config.used(source):
        config = checkpoint_config.literal(config)
        checkpoint_config.check_room(
            {k: config.model[k] for k in _SIZES},
            len(held.state_dict["vocab_embed.embedding"]),
            bool(config.algo.causal_attention),
            held.state_dict,
            source,
        )
        kinds = {"ar": algo.AR, "mean": algo.DUO_BASE}
        cls = kinds.get(config.algo.parameterization, algo.MDLM)
        # A distiller's may be one of ours, of which the host's own class does not know.
        uniform = cls is algo.DUO_BASE
        config.sampling.predictor = "ancestral" if uniform else "ancestral_cache"
        tokenizer = dataloader.get_tokenizer(config)
        model = entry.load_from_checkpoint(cls, path, config, tokenizer)
    if ema and model.ema:
        model.ema.copy_to(model._get_parameters())
    return model.eval(), tokenizer


def judge(model):
    """The AR model as a judge for `evaluation.metrics`: nats of each next token."""

    def nll(tokens):
        size, mask = model.vocab_size, model.mask_index
        vocabulary.check_ids(tokens, size, mask, "A sample", model.tokenizer)
        tokens = tokens.to(model.device)  # measured where they come from, on the CPU
        return model.nll(tokens[:, :-1], None, tokens[:, 1:])

    return nll


@ours()
def validation_tokens(model, tokenizer, most: int) -> torch.Tensor:
    """Up to `most` held-out rows, (rows, length)."""
    _, loader = dataloader.get_dataloaders(model.config, tokenizer, skip_train=True)
    rows = []
    for batch in loader:
        rows.append(batch["input_ids"])
        if sum(map(len, rows)) >= most:
            break
    return torch.cat(rows)[:most]


def denoiser(model):
    """A model of the embedded host as a `sampling.Denoise`."""
    return sparse_denoiser(
        model,
        lambda model, net, z, alpha_t, labels: net(
            z, model._process_sigma(model._sigma_from_alphat(alpha_t[:, None]))
        ),
    )
