"""Ask a host's model for logits at masked rows alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import head
from ..errors import ConfigError
from .chain import Denoise


def denoiser(model: Any, denoise: Callable[..., Tensor], labels: Tensor | None = None) -> Denoise:
    """Return a `sampling.Denoise` of a host's model, time-conditioned where that is.

    denoise(model, backbone, z, alpha_t, labels): an adapter's. model: with `backbone`,
    `device` and `time_conditioning`. labels: (batch,) classes, or None.
    """

    def on_rows(z: Tensor, rows: Tensor, alpha_t: Tensor | None = None) -> Tensor:
        if not model.time_conditioning:
            alpha_t = torch.ones(len(z))
        elif alpha_t is None:
            raise ConfigError(
                "denoise(z, rows) of a time-conditioned model lacks alpha_t: give a function "
                "around it the attribute time_conditioned = True."
            )
        # The hosts' precision; alpha_t = 0 would be an infinite sigma.
        alpha_t = alpha_t.float().clamp(min=torch.finfo(torch.float32).tiny)
        home = z.device
        z, rows, alpha_t = (x.to(model.device) for x in (z, rows, alpha_t))
        # At many steps most sequences open nothing: they are not run at all.
        active = rows.any(-1)
        z, rows, alpha_t = z[active], rows[active], alpha_t[active]
        classes = None if labels is None else labels[active]
        features = head.encode(model.backbone, lambda net: denoise(model, net, z, alpha_t, classes))
        return features.logits(features.rows(rows.flatten())).to(home)

    on_rows.time_conditioned = bool(model.time_conditioning)  # type: ignore[attr-defined]
    return on_rows
