"""Open checkpoints of the embedded host as its own models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoints import checkpoint_config, weights
from ..checkpoints.files import expanded
from ..minihost import algo, dataloader
from ..minihost import main as entry
from ..models import vocabulary

_SIZES = ("hidden_size", "cond_dim", "n_blocks", "n_heads", "dropout")


def open_model(path: str | Path, ema: bool = True) -> tuple[Any, Any]:
    """Return a trained model of this host in eval mode, as its checkpoint describes it.

    A student opens as the plain model it is: MDLM, or DUO_BASE for a uniform-state
    one. Returns (model, tokenizer). Raises CheckpointError and ConfigError.
    """
    file, source = str(expanded(str(path), "CKPT")), f"CKPT={path}"
    found = weights.read_weights(file, "CKPT")
    entry.register_resolvers()
    config: Any = {**found.config, "data": checkpoint_config.data(found.config)}
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
        model = entry.load_from_checkpoint(cls, file, config, tokenizer)
    if ema and model.ema:
        model.ema.copy_to(model._get_parameters())
    return model.eval(), tokenizer


def judge(model: Any) -> Callable[[Tensor], Tensor]:
    """Return the AR model as a judge for `evaluation.metrics`: nats of each next token."""

    def nll(tokens: Tensor) -> Tensor:
        size, mask = model.vocab_size, model.mask_index
        vocabulary.check_ids(tokens, size, mask, "A sample", model.tokenizer)
        tokens = tokens.to(model.device)  # measured where they come from, on the CPU
        return model.nll(tokens[:, :-1], None, tokens[:, 1:])

    return nll
