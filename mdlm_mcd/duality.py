"""The masked diffusion duality: Sections 3.1 and 3.2 of the paper (arXiv 2602.00792).

A Gaussian diffusion w_t over K dimensions (the vocabulary and the mask), projected to the
clean token or to the mask, has the marginals of masked diffusion. Along its deterministic
(DDIM) path, and only there, it is masked diffusion, in which the whole noise vector acts
through one uniform scalar u per token. Training needs only u; this module is the Gaussian
side, and the law F_Y of the noise gap Y = max_{j != k} eps_j - eps_k that links the two.

`alpha_t` is the discrete schedule (gamma_t in the paper), `alpha_tilde` and `sigma_tilde` are
the Gaussian one, `num_classes` is K. Schedules and points may be numbers or tensors of any
floating dtype; the computation is in float64, the result in the dtype given.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.special import log_ndtr

from .errors import ConfigError, require

# Trapezoidal nodes on [-REACH, REACH]. At this step the rule's error is below rounding for
# K up to 2^31, and the Gaussian density is 1e-22 at the ends.
REACH, NODES_PER_UNIT = 10, 16
CHUNK = 1024  # points integrated at a time, which bounds the memory


def latent(
    x0: Tensor, eps: Tensor, alpha_tilde: Tensor | float, sigma_tilde: Tensor | float
) -> Tensor:
    """Return w_t = alpha_tilde x0 + sigma_tilde eps: Eq. 7, and Eq. 9 where eps is kept.

    x0: (...) int64 ids in [0, K); their one-hot is never built. eps: (..., K). alpha_tilde,
    sigma_tilde: numbers, or tensors that broadcast with (...); further leading dimensions,
    such as time, come first in the result. Returns (..., K) in the dtype of eps. Raises
    ConfigError, as all functions of noise here do, where it is not finite.
    """
    _check_noise(eps)
    alpha, sigma = (_wide(x)[0].to(eps.device) for x in (alpha_tilde, sigma_tilde))
    x0 = torch.as_tensor(x0, device=eps.device)
    alpha, sigma, x0 = torch.broadcast_tensors(alpha, sigma, x0)
    w_t = sigma[..., None] * eps
    return w_t.scatter_add(-1, x0[..., None], alpha[..., None]).to(eps.dtype)


def project(w_t: Tensor, x0: Tensor, mask_index: int) -> Tensor:
    """Return x0 where its coordinate of w_t is strictly the largest, else the mask: Eq. 8.

    Of a `latent` with eps kept this is Eq. 10, which draws nothing anew: the path over all
    times is a function of (x0, eps), Proposition 3.2.

    w_t: (..., K). x0: (...) int64 ids in [0, K). Returns z_t: (...) int64.
    """
    return torch.where(_gap(w_t, x0) < 0, x0, mask_index)


def noise_gap(eps: Tensor, k: Tensor | int) -> Tensor:
    """Return Y = max_{j != k} eps_j - eps_k: Lemma 3.1.

    eps: (..., K). k: clean token ids in [0, K), broadcast to (...). Returns (...) in the dtype
    of eps.
    """
    return _gap(eps, k).to(eps.dtype)


def to_uniform(eps: Tensor, k: Tensor | int, law: NoiseGap | int) -> Tensor:
    """Return u = F_Y(Y), the one scalar that masking depends on: Theorem 3.3, Eq. 11 and 12.

    `project(latent(x0, eps, *calibrate(alpha_t, K)), x0, mask_index)` is the mask exactly
    where u > alpha_t, up to ties, whose probability is zero.

    eps: (..., K). k: clean token ids in [0, K), broadcast to (...). law: `NoiseGap(K)` or K.
    Returns (...) in the dtype of eps, uniform on [0, 1] for Gaussian eps. Raises ConfigError
    where K does not fit eps.
    """
    law = law if isinstance(law, NoiseGap) else NoiseGap(law)
    wanted = f"the last size of eps of shape {tuple(eps.shape)}"
    require(eps.shape[-1] == law.num_classes, "num_classes", law.num_classes, wanted)
    return law.cdf(_gap(eps, k)).to(eps.dtype)


def calibrate(alpha_t: Tensor | float, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return the Gaussian schedule whose projection keeps a token w.p. alpha_t: Lemma 3.1.

    alpha_tilde / sigma_tilde = F_Y^{-1}(alpha_t) and alpha_tilde^2 + sigma_tilde^2 = 1. Where
    alpha_t < F_Y(0) = 1/K, alpha_tilde is negative, which the straight path of Eq. 9 allows.

    alpha_t: in (0, 1), any shape. Returns (alpha_tilde, sigma_tilde) in the shape and dtype of
    alpha_t. Raises ConfigError outside of (0, 1).
    """
    alpha_t, dtype = _wide(alpha_t)
    _check_range("alpha_t", alpha_t, (alpha_t > 0) & (alpha_t < 1), "(0, 1)")
    ratio = NoiseGap(num_classes).icdf(alpha_t)
    sigma = (1 + ratio.square()).rsqrt()
    return (ratio * sigma).to(dtype), sigma.to(dtype)


def duo_transform(alpha_tilde: Tensor | float, num_classes: int) -> Tensor:
    """Return T(alpha_tilde), Duo's diffusion transformation operator (arXiv 2506.10892, Eq. 10).

    T(alpha_tilde) = K/(K-1) (F_Y(r) - 1/K), r = alpha_tilde / sqrt(1 - alpha_tilde^2), since
    arg max and the masking projection keep a token on the same event.

    alpha_tilde: in [0, 1], any shape. Returns the uniform-state alpha_t in the same shape and
    dtype. Raises ConfigError outside of [0, 1].
    """
    alpha, dtype = _wide(alpha_tilde)
    _check_range("alpha_tilde", alpha, (alpha >= 0) & (alpha <= 1), "[0, 1]")
    # At alpha_tilde = 1 the clamp keeps the slope at 0, where it would be 0 * inf.
    sigma = ((1 - alpha) * (1 + alpha)).clamp(min=1e-30).sqrt()
    kept = NoiseGap(num_classes).cdf(alpha / sigma)
    return ((num_classes * kept - 1) / (num_classes - 1)).to(dtype)


class NoiseGap:
    """F_Y of Lemma 3.1: the law of Y = max_{j != k} eps_j - eps_k for eps ~ N(0, I_K).

    Given eps_k = e the K - 1 others are independent, so F_Y(y) = int phi(e) Phi^(K-1)(y + e) de.
    The trapezoidal rule gives it to a relative 1e-11 from 1e-12 upwards, and below that to an
    absolute 1e-20. Only the upper tail 1 - F_Y has no more digits than float64 has next to 1.

    Methods take numbers or tensors of any shape, return the same shape and dtype, and are
    differentiable. num_classes: an int from 2 to 2^31, else ConfigError.
    """

    def __init__(self, num_classes: int):
        fine = isinstance(num_classes, int) and 2 <= num_classes <= 2**31
        wanted = "an int from 2 to 2^31, the vocabulary's size plus one for the mask"
        require(fine, "num_classes", repr(num_classes), wanted)
        self.num_classes = num_classes

    def cdf(self, y: Tensor | float) -> Tensor:
        """Return F_Y(y) = P(Y < y)."""
        n = self.num_classes - 1
        return _mean(lambda v: (n * log_ndtr(v)).exp(), y).clamp(max=1)  # by rounding

    def pdf(self, y: Tensor | float) -> Tensor:
        """Return the density of Y at y."""
        n = self.num_classes - 1
        scale = math.log(n) - 0.5 * math.log(2 * math.pi)
        return _mean(lambda v: ((n - 1) * log_ndtr(v) - v.square() / 2 + scale).exp(), y)

    def icdf(self, u: Tensor | float) -> Tensor:
        """Return F_Y^{-1}(u): -inf at 0, inf at 1, nan outside [0, 1].

        u is clamped to [1e-16, 1 - 1e-14], beyond which float64 does not resolve `cdf`. Newton's
        method on log F_Y, from a table's linear interpolation.
        """
        u, dtype = _wide(u)
        with torch.no_grad():
            target = u.clamp(1e-16, 1 - 1e-14).log()
            table = torch.arange(-16, 16, 0.25, dtype=torch.float64, device=u.device)
            log_p = self.cdf(table).log()
            right = torch.searchsorted(log_p, target).clamp(1, len(table) - 1)
            low, high = log_p[right - 1], log_p[right]
            y = table[right - 1] + 0.25 * (target - low) / (high - low)
            for _ in range(3):
                p = self.cdf(y)
                y = y + (target - p.log()) * p / self.pdf(y)
            slope = self.pdf(y)
        # The inverse function theorem: the value is y, the derivative 1 / pdf(y).
        y = y + (u - u.detach()) / slope
        return torch.where((u > 0) & (u < 1), y, u.detach().logit()).to(dtype)


def _mean(function: Callable[[Tensor], Tensor], y: Tensor | float) -> Tensor:
    """E[function(y + e)], e ~ N(0, 1), in the shape and dtype of y."""
    wide, dtype = _wide(y)
    last = REACH * NODES_PER_UNIT
    e = torch.arange(-last, last + 1, dtype=torch.float64, device=wide.device) / NODES_PER_UNIT
    weight = (-e.square() / 2).exp() / (NODES_PER_UNIT * math.sqrt(2 * math.pi))
    parts = [function(part[:, None] + e) @ weight for part in wide.flatten().split(CHUNK)]
    return torch.cat(parts).view(wide.shape).to(dtype)


def _gap(values: Tensor, k: Tensor | int) -> Tensor:
    """max_{j != k} values_j - values_k: (..., K), (...) -> (...) in float64."""
    _check_noise(values)
    k = torch.as_tensor(k, device=values.device).expand(values.shape[:-1])[..., None]
    rival = values.scatter(-1, k, -math.inf).amax(-1)
    return rival.double() - values.gather(-1, k)[..., 0].double()


def _wide(value: Tensor | float) -> tuple[Tensor, torch.dtype]:
    """`value` in float64, and the dtype to return: its own, if it is a floating one."""
    wide = torch.as_tensor(value, dtype=torch.float64)
    own = isinstance(value, Tensor) and value.is_floating_point()
    return wide, value.dtype if own else wide.dtype  # type: ignore[union-attr]


def _check_noise(noise: Tensor) -> None:
    if not (noise.is_floating_point() and noise.isfinite().all()):
        raise ConfigError(
            f"The noise, of dtype {noise.dtype}, is not finite floating-point numbers: draw it "
            "with torch.randn."
        )


def _check_range(name: str, value: Tensor, inside: Tensor, interval: str) -> None:
    if not inside.all():
        require(False, name, value[~inside][0].item(), f"within {interval}")
