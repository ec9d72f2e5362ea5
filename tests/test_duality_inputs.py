"""The duality's dtypes, and one sentence for each thing it cannot take."""

import math

import pytest
import torch

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

EPS = torch.zeros(2, 5)
X0 = torch.zeros(2, dtype=torch.int64)


def float64(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_is_computed_in_float64(dtype):
    g = torch.Generator().manual_seed(0)
    x0 = torch.randint(63, (50,), generator=g)
    eps = torch.randn(50, 64, generator=g, dtype=torch.float64)
    eps, points = eps.to(dtype), torch.linspace(0.05, 0.95, 50).to(dtype)
    wide_eps, wide = eps.double(), points.double()
    law = NoiseGap(64)
    for got, expected in (
        (law.cdf(points), law.cdf(wide)),
        (law.sf(points), law.sf(wide)),
        (law.pdf(points), law.pdf(wide)),
        (law.icdf(points), law.icdf(wide)),
        (law.isf(points), law.isf(wide)),
        (calibrate(points, 64)[0], calibrate(wide, 64)[0]),
        (calibrate(points, 64)[1], calibrate(wide, 64)[1]),
        (duo_transform(points, 64), duo_transform(wide, 64)),
        (noise_gap(eps, x0), noise_gap(wide_eps, x0)),
        (to_uniform(eps, x0, 64), to_uniform(wide_eps, x0, 64)),
        (latent(x0, eps, points, points), latent(x0, wide_eps, wide, wide)),
        (latent(x0, eps, 0.6, 0.8), latent(x0, wide_eps, 0.6, 0.8)),
    ):
        assert got.dtype == dtype and torch.equal(got, expected.to(dtype))


def test_plain_numbers_are_float64():
    for value in (NoiseGap(3).cdf(0), calibrate(0.5, 3)[1], duo_transform(1, 3)):
        assert value.dtype == torch.float64 and value.shape == ()


CLASS_REMEDY = "is not an int from 2 to 2^31: give the vocabulary size plus one for the"
ALPHA_REMEDY = (
    "lies outside (0, 1): keep the schedule off both ends, as 1 - (1 - 1e-3) t does for t > 0."
)
NOISE_REMEDY = "which is not finite: draw it with torch.randn and check what it was scaled by."


@pytest.mark.parametrize("num_classes", [1, 0, -3, 3.0, True, "3", None, [3], X0, 10**20])
def test_bad_num_classes(num_classes):
    NoiseGap(3)
    calibrate(0.5, 3)  # a cached law of 3 must not answer for 3.0
    for call in (
        NoiseGap,
        lambda n: calibrate(0.5, n),
        lambda n: duo_transform(0.5, n),
        lambda n: to_uniform(EPS, X0, n),
    ):
        with pytest.raises(ConfigError) as error:
            call(num_classes)
        message = f"num_classes={num_classes!r} {CLASS_REMEDY} mask."
        assert str(error.value) == message


@pytest.mark.parametrize(
    "alpha_t, value",
    [(0, "0.0"), (1.0, "1.0"), (-0.5, "-0.5"), (float64(0.5, 1.25), "1.25")]
    + [(math.nan, "nan"), (torch.tensor([[0.5], [math.inf]]), "inf")],
)
def test_bad_alpha_t(alpha_t, value):
    with pytest.raises(ConfigError) as error:
        calibrate(alpha_t, 5)
    assert str(error.value) == f"alpha_t={value} {ALPHA_REMEDY}"


@pytest.mark.parametrize("alpha_tilde, value", [(-0.25, "-0.25"), (1.5, "1.5")])
def test_bad_alpha_tilde(alpha_tilde, value):
    with pytest.raises(ConfigError) as error:
        duo_transform(alpha_tilde, 5)
    assert str(error.value) == (
        f"alpha_tilde={value} lies outside [0, 1]: give the signal coefficient of a "
        "variance-preserving schedule."
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_noise_that_is_not_finite(bad):
    eps = EPS.clone()
    eps[1, 3] = bad
    for name, call in (
        ("eps", lambda: latent(X0, eps, 0.6, 0.8)),
        ("w_t", lambda: project(eps, X0, 4)),
        ("eps", lambda: noise_gap(eps, X0)),
        ("eps", lambda: to_uniform(eps, X0, 5)),
    ):
        with pytest.raises(ConfigError) as error:
            call()
        assert str(error.value) == f"{name} contains {bad}, {NOISE_REMEDY}"


@pytest.mark.parametrize(
    "index, complaint",
    [
        (torch.tensor([0, 5]), "=5 is not one of 5 classes: give ids from 0 to 4."),
        (torch.tensor([-1, 0]), "=-1 is not one of 5 classes: give ids from 0 to 4."),
        (torch.zeros(2), " has dtype torch.float32: give token ids as int64."),
        (X0.bool(), " has dtype torch.bool: give token ids as int64."),
        (
            torch.zeros(3, dtype=torch.int64),
            " of shape (3,) does not fit (2, 5): give one id per vector of noise, shape (2,).",
        ),
    ],
)
def test_bad_index(index, complaint):
    for name, call in (
        ("x0", lambda: latent(index, EPS, 0.6, 0.8)),
        ("x0", lambda: project(EPS, index, 4)),
        ("mask_index", lambda: project(EPS, X0, index)),
        ("k", lambda: noise_gap(EPS, index)),
        ("k", lambda: to_uniform(EPS, index, 5)),
    ):
        with pytest.raises(ConfigError) as error:
            call()
        assert str(error.value) == name + complaint


@pytest.mark.parametrize(
    "noise, kind",
    [(EPS.long(), "torch.int64"), (EPS > 0, "torch.bool"), (EPS.tolist(), "list")]
    + [(EPS.numpy(), "ndarray"), (EPS.cfloat(), "torch.complex64"), (None, "NoneType")],
)
def test_noise_that_is_no_tensor_of_floats(noise, kind):
    for name, call in (
        ("eps", lambda: latent(X0, noise, 0.6, 0.8)),
        ("w_t", lambda: project(noise, X0, 4)),
        ("eps", lambda: noise_gap(noise, X0)),
        ("eps", lambda: to_uniform(noise, X0, 5)),
    ):
        with pytest.raises(ConfigError) as error:
            call()
        remedy = "give a floating-point torch.Tensor."
        assert str(error.value) == f"{name} is of {kind}: {remedy}"


@pytest.mark.parametrize("bad", ["0.5", None, 1j])
def test_what_is_no_number(bad):
    law = NoiseGap(5)
    for name, call in (
        ("alpha_t", lambda: calibrate(bad, 5)),
        ("alpha_tilde", lambda: duo_transform(bad, 5)),
        ("alpha_tilde", lambda: latent(X0, EPS, bad, 0.8)),
        ("sigma_tilde", lambda: latent(X0, EPS, 0.6, bad)),
        *(
            (n, lambda f=f: getattr(law, f)(bad))
            for f, n in (("cdf", "y"), ("sf", "y"), ("pdf", "y"), ("icdf", "u"), ("isf", "q"))
        ),
    ):
        with pytest.raises(ConfigError) as error:
            call()
        remedy = "does not make a tensor: give a number, or a tensor."
        assert str(error.value) == f"{name}={bad!r} {remedy}"
    for name, call in (
        ("x0", lambda: latent("a", EPS, 0.6, 0.8)),
        ("k", lambda: noise_gap(EPS, None)),
    ):
        with pytest.raises(ConfigError, match=f"^{name}=.* does not make a tensor"):
            call()
    with pytest.raises(ConfigError, match="^alpha_t has dtype torch.complex64: give"):
        calibrate(torch.tensor([0.5j]), 5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_coefficients_that_are_not_finite(bad):
    remedy = "is not finite: take it from calibrate."
    for name, pair in (("alpha_tilde", (bad, 0.8)), ("sigma_tilde", (0.6, bad))):
        with pytest.raises(ConfigError) as error:
            latent(X0, EPS, *pair)
        assert str(error.value) == f"{name}={bad} {remedy}"


@pytest.mark.parametrize("alpha, sigma", [((3,), ()), ((), (3,)), ((2, 1), (3, 1))])
def test_coefficients_that_do_not_fit_the_noise(alpha, sigma):
    with pytest.raises(ConfigError) as error:
        latent(X0, EPS, torch.full(alpha, 0.6), torch.full(sigma, 0.8))
    assert str(error.value) == (
        f"alpha_tilde of shape {alpha} and sigma_tilde of shape {sigma} do not "
        "broadcast with tokens of shape (2,): give numbers, or dimensions of 1."
    )


@pytest.mark.parametrize("shape", [(), (3, 1)])
def test_noise_without_classes(shape):
    with pytest.raises(ConfigError) as error:
        noise_gap(torch.zeros(shape), 0)
    assert str(error.value) == (
        f"eps of shape {shape} does not end in num_classes >= 2: give it as (..., num_classes)."
    )


def test_law_of_other_num_classes_than_the_noise():
    for law in (7, NoiseGap(7)):
        with pytest.raises(ConfigError) as error:
            to_uniform(EPS, X0, law)
        assert str(error.value) == (
            "num_classes=7 does not match eps of shape (2, 5): give the size of its last dimension."
        )
