"""Exponential moving average of parameters, with the hosts' interface."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError


class ExponentialMovingAverage:
    """Shadow copies of the trainable parameters of a model.

    The decay warms up as min(decay, (1 + n) / (10 + n)) after n updates, so that a young
    average does not stay near its random start. `shadow_params` is a list in the order of
    the parameters given, as in the checkpoints of all public hosts.

    Raises ConfigError for a decay outside [0, 1].
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float):
        if not 0.0 <= decay <= 1.0:
            raise ConfigError(f"training.ema={decay} is no decay: choose a number from 0 to 1.")
        self.decay = decay
        self.num_updates: int | None = 0  # None in checkpoints of hosts that do not warm up
        self.shadow_params = [p.detach().clone() for p in parameters if p.requires_grad]
        self.collected_params: list[Tensor] = []

    def move_shadow_params_to_device(self, device: torch.device | str) -> None:
        self.shadow_params = [p.to(device) for p in self.shadow_params]

    @torch.no_grad()
    def update(self, parameters: Iterable[nn.Parameter]) -> None:
        """Move the averages towards `parameters`; call it after each optimizer step."""
        decay = self.decay
        if self.num_updates is not None:
            self.num_updates += 1
            decay = min(decay, (1 + self.num_updates) / (10 + self.num_updates))
        pairs = list(self._pairs(parameters))
        if pairs:  # one kernel for many, on a GPU
            shadows = [shadow for shadow, _ in pairs]
            current = [p.detach().to(shadow.dtype) for shadow, p in pairs]
            torch._foreach_lerp_(shadows, current, 1.0 - decay)

    @torch.no_grad()
    def copy_to(self, parameters: Iterable[nn.Parameter]) -> None:
        """Write the averages into `parameters`."""
        for shadow, p in self._pairs(parameters):
            p.copy_(shadow)

    def store(self, parameters: Iterable[nn.Parameter]) -> None:
        """Keep the current values, for `restore`."""
        self.collected_params = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def restore(self, parameters: Iterable[nn.Parameter]) -> None:
        """Write back what `store` kept."""
        for kept, p in zip(self.collected_params, parameters, strict=True):
            p.copy_(kept)

    def fits(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Return whether the averages have the shapes of `parameters`."""
        shapes = [getattr(shadow, "shape", None) for shadow in self.shadow_params]
        return shapes == [p.shape for p in parameters if p.requires_grad]

    def state_dict(self) -> dict[str, Any]:
        names = ("decay", "num_updates", "shadow_params")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.num_updates = state_dict["num_updates"]
        self.shadow_params = state_dict["shadow_params"]

    def _pairs(self, parameters: Iterable[nn.Parameter]) -> Iterable[tuple[Tensor, nn.Parameter]]:
        trained = [p for p in parameters if p.requires_grad]
        return zip(self.shadow_params, trained, strict=True)
