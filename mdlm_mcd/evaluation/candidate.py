"""A model as the evaluation sees it, whatever it was opened from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..coupling import Alpha
from ..sampling import Denoise


@dataclass(frozen=True)
class Candidate:
    """What sampling and measuring need, and where it comes from.

    denoise: see `sampling`; alpha: its signal schedule; length: tokens in a sequence;
    tokenizer: a Hugging Face one; provenance: for the results file (checkpoint,
    sha256, algo, loss, round, recipe, teacher, host).
    """

    label: str
    denoise: Denoise
    alpha: Alpha
    mask_index: int
    vocab_size: int
    length: int
    tokenizer: Any
    device: str = "cpu"
    provenance: dict[str, Any] = field(default_factory=dict)
