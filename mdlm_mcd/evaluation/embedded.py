"""Open checkpoints of the embedded host as its own models."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoints import checkpoint_config, identity, weights
from ..checkpoints.files import expanded, read_json
from ..minihost import algo, dataloader
from ..minihost import main as entry
from ..models import vocabulary

_SIZES = ("hidden_size", "cond_dim", "n_blocks", "n_heads", "dropout")


def is_embedded(name: str) -> bool:
    """Return whether a name is that of a checkpoint of this host, or of such a folder."""
    folder = Path(expanded(name, "CKPT"))
    config = read_json(folder / weights.CONFIG, {}) if folder.is_dir() else {}
    return name.endswith(".ckpt") or "algo" in config


def open_model(path: str | Path, ema: bool = True) -> tuple[Any, Any]:
    """Return a trained model of this host in eval mode, as its checkpoint describes it.

    path: a checkpoint, or a folder of weights, config and tokenizer. A student opens as the
    plain model it is: MDLM, or DUO_BASE for a uniform-state one. Returns (model, tokenizer);
    the model has the weights asked for, and no average beside them. Raises CheckpointError
    and ConfigError.
    """
    file, source = expanded(str(path), "CKPT"), f"CKPT={path}"
    found = weights.read_weights(file, "CKPT")
    entry.register_resolvers()
    config: Any = {**found.config, "data": checkpoint_config.data(found.config)}
    if os.path.isdir(file):
        config["data"]["tokenizer_name_or_path"] = str(path)
    # The file does not choose what is run, or where a model is fetched from.
    config["algo"] = {**checkpoint_config.section(config, "algo"), "backbone": "dit"}
    config["eval"] = {**checkpoint_config.section(config, "eval"), "checkpoint_path": ""}
    with checkpoint_config.used(source):
        config = checkpoint_config.literal(config)
        checkpoint_config.check_room(
            {k: config.model[k] for k in _SIZES},
            len(found.state_dict["vocab_embed.embedding"]),
            bool(config.algo.causal_attention),
            found.state_dict,
            source,
        )
        kinds = {"ar": algo.AR, "mean": algo.DUO_BASE}
        cls = kinds.get(config.algo.parameterization, algo.MDLM)
        # A distiller's may be one of ours, of which the host's own class does not know.
        uniform = cls is algo.DUO_BASE
        config.sampling.predictor = "ancestral" if uniform else "ancestral_cache"
        tokenizer = dataloader.get_tokenizer(config)
        identity.check_tokenizer(found.config, tokenizer, source)
        model = cls(config, tokenizer)
        which = "ema" if ema and (found.is_final or found.shadow_params) else "raw"
        named = model.backbone.named_parameters()
        weights.load_weights(model.backbone, named, found, which, source)
    model.ema = None
    return model.eval(), tokenizer


def judge(model: Any) -> Callable[[Tensor], Tensor]:
    """Return the AR model as a judge for `evaluation.metrics`: nats of each next token."""

    def nll(tokens: Tensor) -> Tensor:
        size, mask = model.vocab_size, model.mask_index
        vocabulary.check_ids(tokens, size, mask, "A sample", model.tokenizer)
        tokens = tokens.to(model.device)  # measured where they come from, on the CPU
        return model.nll(tokens[:, :-1], None, tokens[:, 1:])

    return nll
