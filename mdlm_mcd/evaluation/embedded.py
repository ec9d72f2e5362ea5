"""The embedded host's left-to-right model as an evaluator, opened from its weights alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import losses
from ..checkpoints import weights
from ..checkpoints.files import expanded, read_json
from ..models import dit, vocabulary
from . import candidates


def is_embedded(name: str) -> bool:
    """Return whether a name is that of a checkpoint of this host, or of such a folder."""
    folder = Path(expanded(name, "CKPT"))
    config = read_json(folder / weights.CONFIG, {}) if folder.is_dir() else {}
    return name.endswith(".ckpt") or "algo" in config


@dataclass(frozen=True)
class Judge:
    """A causal network, its tokenizer, and the length of the rows it was trained on."""

    network: dit.DIT
    tokenizer: Any
    mask_index: int
    vocab_size: int
    length: int
    device: str = "cpu"

    def nll(self, tokens: Tensor) -> Tensor:
        """Return nats of each next token: ids (batch, length) -> (batch, length - 1)."""
        vocabulary.check_ids(tokens, self.vocab_size, self.mask_index, "A sample", self.tokenizer)
        tokens = tokens.to(self.device)  # measured where they come from, on the CPU
        logits = self.network(tokens[:, :-1], None)
        log_p = losses.subs_masked(logits, self.mask_index)
        return losses.cross_entropy(log_p, None, tokens[:, 1:])


def open_judge(path: str, device: str = "cpu") -> Judge:
    """Open a checkpoint, or a folder of weights, config and tokenizer, of `algo=ar`.

    The averaged weights where there are any. Raises CheckpointError and ConfigError.
    """
    source, opened = f"--evaluator {path}", weights.read_weights(path, "--evaluator")
    sizes = candidates.sizes(opened, {}, source, "ar")
    tokenizer = candidates.tokenizer_of(opened, candidates.Source("judge", path))
    mask = candidates.mask_index(tokenizer, sizes["vocab_size"], source)
    which = "ema" if opened.is_final or opened.shadow_params else "raw"
    network, _ = candidates.build(opened, sizes, which, source)
    network.to(device).eval().requires_grad_(False)
    return Judge(network, tokenizer, mask, sizes["vocab_size"], sizes["model_length"], device)
