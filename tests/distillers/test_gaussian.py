"""(u, j*) against the Gaussian construction itself: arg max of two latents, one eps."""

import re

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from mdlm_mcd import duality
from mdlm_mcd.distillers import dcd as uniform
from mdlm_mcd.errors import ConfigError

WIDE = {"gamma_min": -6.0, "gamma_max": 6.0}  # nearly all of (0, 1) for few tokens


def gaussian(x0, eps, gamma):
    """arg max of Eq. 7's latent for each token, by its definition."""
    signal = torch.nn.functional.one_hot(x0, eps.shape[-1])
    w = torch.sigmoid(-gamma).sqrt() * signal + torch.sigmoid(gamma).sqrt() * eps
    return w.argmax(-1)


@settings(max_examples=60)
@given(st.integers(2, 9), st.floats(0, 1), st.floats(0, 1), st.integers(0, 999))
def test_the_same_pair_from_the_noise_itself(size, one, two, seed):
    """eps -> (F_Y(Y), j*) -> the pair, token for token what arg max shows."""
    g = torch.Generator().manual_seed(seed)
    x0 = torch.randint(size, (4, 6), generator=g)
    eps = torch.randn(4, 6, size, generator=g, dtype=torch.float64)
    t, s = max(one, two), min(one, two)
    schedule = uniform.GaussianSchedule(size, **WIDE)
    u = duality.to_uniform(eps, x0, size)
    rivals = eps.scatter(-1, x0[..., None], -torch.inf).argmax(-1)
    other = rivals - (rivals > x0).long()
    alphas = (schedule(torch.full((4,), v).double()) for v in (t, s))
    z_t, z_s = uniform.couple(x0, u, other, *alphas, size)
    for z, time in ((z_t, t), (z_s, s)):
        assert torch.equal(z, gaussian(x0, eps, torch.tensor(-6 + 12 * time).double()))
    assert ((z_s == x0) | (z_t != x0)).all()


@pytest.mark.parametrize("size", [3, 300, 50_258])
def test_a_schedule_falls_between_the_ends_asked_for(size):
    low, high = (uniform.gamma_of(a, size) for a in (0.999, 0.01))
    schedule = uniform.GaussianSchedule(size, low, high)
    t = torch.linspace(0, 1, 65)
    alpha_t = schedule(t)
    assert alpha_t.dtype == torch.float32 and (alpha_t.diff() < 0).all()
    assert alpha_t[0].item() == pytest.approx(0.999, abs=1e-5)
    assert alpha_t[-1].item() == pytest.approx(0.01, abs=1e-5)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"gamma_min": -1.0, "gamma_max": -4.0}, "gamma_max=-4.0 .* above algo.gamma_min=-1.0"),
        ({"gamma_min": -3.0}, "gamma_min=-3 must be about (-4.02), or with"),
        ({"num_classes": 300}, "gamma_max=-1 must be about (.*), or with a vocabulary of 300"),
    ],
)
def test_bad_settings_are_refused_with_a_remedy(wrong, words):
    wrong = {"num_classes": 50_258} | wrong
    with pytest.raises(ConfigError, match=words) as error:
        uniform.GaussianSchedule(**wrong)
    if remedy := re.search(words, str(error.value)).groups():
        key = "gamma_min" if "gamma_min" in wrong else "gamma_max"
        uniform.GaussianSchedule(**wrong | {key: float(*remedy)})
