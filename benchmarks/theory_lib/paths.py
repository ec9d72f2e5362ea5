"""The Gaussian latent along its own SDE, projected: another pair law than Eq. 13's.

Section 3.1 speaks of the DDIM path, which keeps eps. Along the forward SDE eps changes:
at t it is rho eps_s + sqrt(1 - rho^2) fresh, with rho = r_t / r_s, r = alpha_tilde /
sigma_tilde. The marginals are the same, the joint law is not.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from mdlm_mcd.duality import NoiseGap
from mdlm_mcd.errors import ConfigError

STEP, REACH = 1 / 16, 8.5


def again(num_classes: int, alpha_s: float, alpha_t: float) -> float:
    """Return P(masked at s, visible at t) of a token along the SDE, s < t; 0 along DDIM.

    By quadrature over the token's own two noises, given which its K - 1 rivals are
    independent, each below both thresholds with a bivariate normal probability. Raises
    ConfigError where alpha_t < 1/K: alpha_tilde < 0, which no forward SDE reaches.
    """
    law = NoiseGap(num_classes)
    r_s, r_t = (float(law.icdf(alpha)) for alpha in (alpha_s, alpha_t))
    if r_t < -1e-9:
        raise ConfigError(f"alpha_t={alpha_t} is below 1/{num_classes}: raise it.")
    rho = max(r_t, 0.0) / r_s
    grid = np.arange(-REACH, REACH + STEP / 2, STEP)
    weight = np.exp(-(grid**2) / 2) * STEP / math.sqrt(2 * math.pi)
    own, fresh = grid[:, None], grid[None, :]
    below = both_below(own + r_s, rho * own + math.sqrt(1 - rho**2) * fresh + r_t, rho)
    kept = weight @ np.exp((num_classes - 1) * np.log(below.clip(1e-300))) @ weight
    return alpha_t - float(kept)


def both_below(h: np.ndarray, k: np.ndarray, rho: float) -> np.ndarray:
    """Return P(X < h, Y < k) of normals with correlation rho in [0, 1), by Owen's T."""
    h, k = np.broadcast_arrays(h, k)
    h, k = (np.where(x == 0, 1e-300, x) for x in (h, k))
    root = math.sqrt(1 - rho**2)
    owen = special.owens_t(h, (k - rho * h) / (h * root)) + special.owens_t(
        k, (h - rho * k) / (k * root)
    )
    half = np.where(h * k < 0, 0.5, 0.0)
    return (special.ndtr(h) + special.ndtr(k)) / 2 - owen - half
