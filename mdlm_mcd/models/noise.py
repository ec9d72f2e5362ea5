"""Noise schedules: t in [0, 1] -> (dalpha_t, alpha_t), in the order Duo returns them."""

import torch
import torch.nn as nn
from torch import Tensor


class LogLinear(nn.Module):
    """alpha_t = 1 - (1 - eps) t."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        slope = 1 - self.eps
        return torch.full_like(t, -slope), 1 - slope * t


class Cosine(nn.Module):
    """alpha_t = 1 - cos(pi / 2 (1 - (1 - eps) t))."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        slope = 1 - self.eps
        angle = torch.pi / 2 * (1 - slope * t)
        return -torch.pi / 2 * slope * angle.sin(), 1 - angle.cos()


NOISES = {"log-linear": LogLinear, "cosine": Cosine}
