"""A model as the evaluation sees it, whatever it was opened from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

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

    def noise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """t (batch,) -> (dalpha_t, alpha_t), as the hosts' schedules answer."""
        with torch.enable_grad():
            t = t.detach().requires_grad_()
            alpha_t = self.alpha(t)
            (dalpha_t,) = torch.autograd.grad(alpha_t.sum(), t)
        return dalpha_t, alpha_t.detach()
