"""Discrete consistency distillation (DCD; Duo, arXiv 2506.10892) as a Lightning mixin.

Section 4.2 couples the views (z_t, z_s) of a uniform-state model: it follows a token
along the deterministic path of a Gaussian diffusion over the K tokens,
w_t = alpha_tilde x0 + sigma_tilde eps with one eps for all times, and shows
z_t = arg max w_t. The signal goes to coordinate x0 alone, and the others share a
scale. So z_t is x0 or the token j* = arg max_{j != x0} eps_j, the same j* at all
times, and it is x0 exactly where Y = max_{j != x0} eps_j - eps_x0 stays below
alpha_tilde / sigma_tilde.

The coordinates are exchangeable: j* is uniform over the K - 1 other tokens and
independent of Y. With u = F_Y(Y), a uniform number, the K numbers of eps come down to
the pair (u, j*): z_t = x0 where u <= F_Y(alpha_tilde / sigma_tilde), else j*. That is
the locking of Theorem 3.3 with j* in the place of the mask, and MCD's pair is the
image of this one under j* -> mask.

What is left of the Gaussian is a schedule. F_Y(alpha_tilde / sigma_tilde) is
alpha_t + (1 - alpha_t) / K, the chance of x0 in Cat(alpha_t x0 + (1 - alpha_t) / K),
where alpha_t = T(alpha_tilde) is Duo's Eq. 10 (`duality.duo_transform`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import head
from ..curriculum import Round
from ..duality import NoiseGap, duo_transform
from ..errors import require
from .base import Distiller
from .rng import StepNoise
from .settings import number


class DCD(Distiller):
    """Distil the teacher on z_s into a uniform-state student on z_t, at every token.

    The two views lie on one deterministic path of the underlying Gaussian diffusion
    (`couple`), and each network is given its own alpha = T(alpha_tilde).
    """

    parameterization = "mean"
    loss_kinds = ("kl_bwd", "kl_fwd")
    above = {"gamma_min": -math.inf, "gamma_max": -math.inf}

    def check_model(self) -> None:
        gammas = (number(self.config.algo, name) for name in ("gamma_min", "gamma_max"))
        self.gaussian = GaussianSchedule(self.vocab_size, *gammas)

    def distil(self, round_: Round, x0, valid, condition, noise: StepNoise) -> head.LossOutput:
        length, others = x0.shape[1], self.vocab_size - 1
        _, _, alpha_t, alpha_s = noise.times(round_.delta, self.gaussian)
        other = noise.share(
            "other token", lambda total, g: torch.randint(others, (total, length), generator=g)
        )
        z_t, z_s = couple(x0, noise.u(length), other, alpha_t, alpha_s, self.vocab_size)
        student = self.encode(self.backbone, z_t, alpha_t, condition)
        with torch.no_grad():
            teacher = self.encode(self.teacher.backbone, z_s, alpha_s, condition)
        return self.supervise(round_, student, teacher, None, valid > 0, valid > 0)


@dataclass(frozen=True)
class GaussianSchedule:
    """t -> alpha_t = T(alpha_tilde), for alpha_tilde^2 = sigmoid(-gamma) of Duo.

    gamma goes straight from gamma_min at t = 0 to gamma_max at t = 1. num_classes: K.
    Called with t in [0, 1] of any shape, it returns that shape, dtype and device.
    Raises ConfigError, with a remedy that fits K, unless alpha_t falls from about 1 to
    about 0.
    """

    num_classes: int
    gamma_min: float = -4.0
    gamma_max: float = -1.0

    def __post_init__(self):
        low, high, size = self.gamma_min, self.gamma_max, self.num_classes
        require(low < high, "algo.gamma_max", high, f"above algo.gamma_min={low}")
        first, last = self(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        for key, value, fits, alpha_t, fit in (
            ("gamma_min", low, first >= 0.9, first, gamma_of(0.999, size)),
            ("gamma_max", high, last <= 0.1, last, gamma_of(0.01, size)),
        ):
            wanted = (
                f"about {fit:.2f}, or with a vocabulary of {size} alpha_t, which has to fall from "
                f"about 1 to about 0, is {alpha_t:.3g} at that end"
            )
            require(fits, f"algo.{key}", f"{value:g}", wanted)

    def __call__(self, t: Tensor) -> Tensor:
        # On the CPU: some devices have no float64.
        gamma = self.gamma_min + t.cpu().double() * (self.gamma_max - self.gamma_min)
        alpha_tilde = torch.sigmoid(-gamma).sqrt()
        return duo_transform(alpha_tilde, self.num_classes).to(t)


def gamma_of(alpha_t: float, num_classes: int) -> float:
    """Return the gamma at which T(alpha_tilde) is alpha_t, in (0, 1)."""
    kept = alpha_t + (1 - alpha_t) / num_classes
    return -2 * math.log(NoiseGap(num_classes).icdf(kept).item())


def couple(
    x0: Tensor, u: Tensor, other: Tensor, alpha_t: Tensor, alpha_s: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Couple the views (z_t, z_s) of one path, alpha_s >= alpha_t; each (batch, length).

    x0, u: (batch, length), u uniform in [0, 1]; other: (batch, length), uniform over
    0 .. K - 2, the place of j* among the tokens that are not x0; alpha_t, alpha_s: (batch,).
    """
    other = other.to(x0)
    j = other + (other >= x0)
    kept = (alpha + (1 - alpha) / num_classes for alpha in (alpha_t, alpha_s))
    z_t, z_s = (torch.where(u <= chance[:, None], x0, j) for chance in kept)
    return z_t, z_s
