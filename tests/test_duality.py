"""The duality against quadrature, closed forms and its own Gaussian side."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from mdlm_mcd.duality import (
    NoiseGap,
    calibrate,
    duo_transform,
    latent,
    noise_gap,
    project,
    to_uniform,
)
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.models.noise import NOISES

CLASSES = [2, 64, 50258]
TIMES = torch.tensor([1e-3, 0.1, 0.35, 0.5, 0.8, 0.97, 1.0], dtype=torch.float64)
ALPHAS = torch.cat([noise(1e-3)(TIMES)[1] for noise in NOISES.values()])


def float64(*values):
    return torch.tensor(values, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(num_classes, size, generator):
    """Tokens, never the mask (the last class), and their noise."""
    x0 = torch.randint(num_classes - 1, (size,), generator=generator)
    eps = torch.randn(size, num_classes, generator=generator, dtype=torch.float64)
    return x0, eps


def reference(num_classes, y, which):
    """cdf or pdf by adaptive quadrature in a window around the mode of the integrand."""
    n = num_classes - 1

    def log_integrand(v):
        log_power = n * special.log_ndtr(v)
        if which == "pdf":
            log_power = math.log(n) + stats.norm.logpdf(v) + log_power * (n - 1) / n
        return stats.norm.logpdf(v - y) + log_power

    grid = np.linspace(-30, 30, 24_001)
    mode = grid[np.argmax(log_integrand(grid))]
    top = log_integrand(mode)
    halves = (
        integrate.quad(lambda v: np.exp(log_integrand(v) - top), *ends, epsabs=0, epsrel=1e-12)[0]
        for ends in ((mode - 9, mode), (mode, mode + 9))
    )
    return math.exp(top) * sum(halves)


# The law of the noise gap


@pytest.mark.parametrize("num_classes", [2, 64, 200_000])
def test_law_matches_adaptive_quadrature(num_classes):
    law = NoiseGap(num_classes)
    for u in (1e-12, 1e-9, 1.2e-6, 1e-3, 0.1, 0.5, 0.9, 0.999, 1 - 1e-6, 1 - 1e-12):
        y = law.icdf(u).item()
        assert law.cdf(y).item() == pytest.approx(u, rel=1e-10, abs=0)
        for which in ("cdf", "pdf"):
            got, expected = getattr(law, which)(y).item(), reference(num_classes, y, which)
            assert got == pytest.approx(expected, rel=1e-10, abs=0), (u, which)
    # Noise alone keeps one token in num_classes.
    assert law.cdf(0.0).item() == pytest.approx(1 / num_classes, rel=1e-10)


def test_ends_and_outside_of_the_range():
    law = NoiseGap(64)
    inf, nan = math.inf, math.nan
    u = float64(0, 1, -0.1, 1.1, nan)
    torch.testing.assert_close(law.icdf(u), float64(-inf, inf, nan, nan, nan), equal_nan=True)
    ends = float64(-inf, -1e9, 1e9, inf, nan)
    torch.testing.assert_close(law.cdf(ends), float64(0, 0, 1, 1, nan), equal_nan=True)
    near = law.icdf(float64(1e-300, 1e-16, 1 - 1e-14, 1 - 1e-16))
    assert near.isfinite().all() and (near.diff() >= 0).all()
    assert calibrate(0.5, 3)[1].dtype == torch.float64  # of a plain number


@pytest.mark.parametrize("shape", [(), (0,), (2, 3, 5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_shape_and_dtype_are_kept_and_the_computation_is_in_float64(shape, dtype):
    x0 = torch.zeros(shape, dtype=torch.int64)
    u = torch.rand(shape, generator=seeded(), dtype=torch.float64).clamp(0.01, 0.99).to(dtype)
    eps = torch.randn(*shape, 9, generator=seeded(), dtype=torch.float64).to(dtype)
    law = NoiseGap(9)
    for call, values in (
        (law.cdf, [u]),
        (law.pdf, [u]),
        (law.icdf, [u]),
        (lambda a: calibrate(a, 9)[0], [u]),
        (lambda a: calibrate(a, 9)[1], [u]),
        (lambda a: duo_transform(a, 9), [u]),
        (lambda e: noise_gap(e, x0), [eps]),
        (lambda e: to_uniform(e, x0, 9), [eps]),
        (lambda e, a: latent(x0, e, a, a), [eps, u]),
    ):
        got, wide = call(*values), call(*(v.double() for v in values))
        assert got.shape == wide.shape and got.shape[: len(shape)] == shape
        assert got.dtype == dtype and torch.equal(got, wide.to(dtype))


# Derivatives


@pytest.mark.parametrize("num_classes", [2, 50258])
def test_derivatives(num_classes):
    law = NoiseGap(num_classes)
    y = float64(-3.0, -0.4, 1.0, 6.0).requires_grad_()
    u = float64(1e-3, 0.2, 0.5, 0.9, 0.999).requires_grad_()
    for function, point in (
        (law.cdf, y),
        (law.pdf, y),
        (law.icdf, u),
        (lambda a: calibrate(a, num_classes), u),
        (lambda a: duo_transform(a, num_classes), u),
    ):
        assert torch.autograd.gradcheck(function, point, eps=1e-7, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # costs no digits
        assert torch.equal(law.cdf(y), NoiseGap(num_classes).cdf(y))


def test_gradients_reach_noise_and_coefficients():
    x0, eps = draw(5, 4, seeded())
    eps.requires_grad_()
    alpha = float64(0.9, 0.5, -0.2, 0.1).requires_grad_()
    gradcheck = torch.autograd.gradcheck
    assert gradcheck(lambda e, a: latent(x0, e, a, 1 - a), (eps, alpha))
    assert gradcheck(lambda e: noise_gap(e, x0), eps)
    assert gradcheck(lambda e: to_uniform(e, x0, 5), eps)


# The Gaussian side


def test_latent_is_the_interpolation_of_the_one_hot():
    x0, eps = draw(7, 12, seeded())
    alpha, sigma = float64(0.6, -0.1, 1.0), float64(0.8, 0.995, 0.0)
    before = eps.clone()
    w_t = latent(x0, eps, alpha[:, None], sigma[:, None])
    one_hot = torch.nn.functional.one_hot(x0, 7)
    expected = alpha[:, None, None] * one_hot + sigma[:, None, None] * eps
    torch.testing.assert_close(w_t, expected, rtol=0, atol=1e-16)
    assert torch.equal(eps, before)


def test_project_keeps_only_a_strictly_largest_coordinate():
    w_t = float64(3, 1, 2, 0, 3, 3, 2, 0, 2, 1, 3, 0).view(3, 4)
    x0 = torch.tensor([0, 0, 1])
    assert project(w_t, x0, 3).tolist() == [0, 3, 3]
    assert project(w_t[:, :3], x0, 2).tolist() == [0, 2, 2]
    assert project(w_t.to(torch.bfloat16), x0, 3).dtype == torch.int64


@pytest.mark.parametrize("num_classes", CLASSES)
def test_calibration_is_variance_preserving_and_exact(num_classes):
    alpha, sigma = calibrate(ALPHAS, num_classes)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(ALPHAS))
    assert (sigma > 0).all()
    assert torch.equal(alpha < 0, ALPHAS < 1 / num_classes)
    kept = NoiseGap(num_classes).cdf(alpha / sigma)
    torch.testing.assert_close(kept, ALPHAS, rtol=1e-10, atol=0)


# The duality itself


@pytest.mark.parametrize("num_classes", CLASSES)
def test_projected_latent_is_masking_by_the_scalar(num_classes):
    law, mask = NoiseGap(num_classes), num_classes - 1
    x0, eps = draw(num_classes, min(1000, 4_000_000 // num_classes), seeded(num_classes))
    u = to_uniform(eps, x0, law)
    # Fixed times, and times that pass u on either side as closely as they can.
    for alpha_t in (*ALPHAS, u * (1 - 1e-9), u * (1 + 1e-9)):
        alpha_t = alpha_t.clamp(max=1 - 1e-15)
        z_t = project(latent(x0, eps, *calibrate(alpha_t, num_classes)), x0, mask)
        tie = (u - alpha_t).abs() < 1e-12 * u
        assert tie.float().mean() < 0.01
        expected = torch.where(u > alpha_t, mask, x0)
        assert torch.equal(z_t[~tie], expected[~tie])


# Duo's transformation


@pytest.mark.parametrize("num_classes", [2, 64, 30_000])
def test_duo_transform_is_its_integral(num_classes):
    alpha = float64(0, 0.2, 0.6, 0.85, 0.97, 1)
    got = duo_transform(alpha, num_classes)
    assert got[[0, -1]].tolist() == pytest.approx([0, 1], abs=1e-14)
    for a, value in zip(alpha[1:-1].tolist(), got[1:-1].tolist(), strict=True):
        integral = reference(num_classes, a / math.sqrt(1 - a * a), "cdf")
        expected = num_classes / (num_classes - 1) * (integral - 1 / num_classes)
        assert value == pytest.approx(expected, abs=1e-11)


def test_duo_transform_has_a_slope_up_to_its_end():
    whole = float64(0.5, 1 - 1e-6, 1).requires_grad_()
    (slope,) = torch.autograd.grad(duo_transform(whole, 30_000).sum(), whole)
    assert slope[0] > 0 and slope[1:].tolist() == [0, 0]  # not 0 * inf
    # Duo, Section 4.1.2: [0.85, 1] nearly spans the schedule at 30K classes.
    assert 0 < duo_transform(0.85, 30_000) < 0.02


# Refusals

NOISE, X0 = torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    "call, words",
    [
        *((lambda n=n: NoiseGap(n), f"^num_classes={n!r} must") for n in (1, -3, 3.0, "3", 10**20)),
        (lambda: calibrate(0.5, None), "^num_classes=None must be an int"),
        (lambda: duo_transform(0.5, 0), "^num_classes=0 must be an int"),
        (lambda: calibrate(0, 5), "^alpha_t=0.0 must be within"),
        (lambda: calibrate(1.0, 5), "^alpha_t=1.0 must be within"),
        (lambda: calibrate(float64(0.5, 1.25), 5), "^alpha_t=1.25 must be within"),
        (lambda: calibrate(math.nan, 5), "^alpha_t=nan must be within"),
        (lambda: duo_transform(-0.25, 5), "^alpha_tilde=-0.25 must be within"),
        (lambda: duo_transform(1.5, 5), "^alpha_tilde=1.5 must be within"),
        (lambda: to_uniform(NOISE, X0, 7), "num_classes=7 must be the last size of eps of shape"),
        (lambda: latent(X0, NOISE / 0, 0.6, 0.8), "^The noise, .* is not finite"),
        (lambda: project(1 / NOISE, X0, 4), "^The noise, .* is not finite"),
        (lambda: noise_gap(NOISE.long(), X0), "of dtype torch.int64, is not finite"),
        (lambda: to_uniform(NOISE / 0, X0, 5), "^The noise, .* is not finite"),
    ],
)
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(ConfigError, match=words):
        call()
