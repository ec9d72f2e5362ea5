"""(u, j*) against the Gaussian construction itself: arg max of two latents, one eps."""

import hypothesis.strategies as st
import pytest
import scipy.stats
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
def test_schedule_and_marginals(size):
    low, high = (uniform.gamma_of(a, size) for a in (0.999, 0.01))
    schedule = uniform.GaussianSchedule(size, low, high)
    t = torch.linspace(0, 1, 65)
    alpha_t = schedule(t)
    assert alpha_t.dtype == torch.float32 and (alpha_t.diff() < 0).all()
    assert alpha_t[0].item() == pytest.approx(0.999, abs=1e-5)
    assert alpha_t[-1].item() == pytest.approx(0.01, abs=1e-5)
    # Each other token is as likely as the next.
    n, alpha = 30_000, torch.tensor([0.3]).double()
    x0 = torch.full((1, n), 1)
    other = torch.randint(size - 1, (1, n))
    z_t, _ = uniform.couple(x0, torch.rand(1, n).double(), other, alpha, alpha, size)
    kept = scipy.stats.binomtest(int((z_t == 1).sum()), n, 0.3 + 0.7 / size)
    assert kept.pvalue > 1e-3
    left = z_t[z_t != 1]
    assert left.min() == 0 and left.max() < size
    if size == 3:
        counts = torch.bincount(left)[[0, 2]]
        assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(
    "settings,words",
    [
        ({"gamma_min": -1.0, "gamma_max": -4.0}, ["gamma_min=-1.0", "in this order"]),
        ({"gamma_max": float("nan")}, ["gamma_max=nan", "finite"]),
        ({"gamma_min": -3.0}, ["gamma_min=-3 keeps alpha_t=", "gamma_min=-4.02"]),
        ({"gamma_max": -2.5}, ["gamma_max=-2.5 keeps alpha_t=0.2", "gamma_max=-1.21"]),
        ({"num_classes": 30}, ["gamma_max=-1 keeps", "a vocabulary of 30"]),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(settings, words):
    with pytest.raises(ConfigError) as error:
        uniform.GaussianSchedule(**({"num_classes": 50_258} | settings))
    assert all(word in str(error.value) for word in words), error.value


def test_the_remedy_is_one():
    with pytest.raises(ConfigError) as error:
        uniform.GaussianSchedule(300)
    value = str(error.value).rpartition("algo.gamma_max=")[2].rstrip(".")
    assert uniform.GaussianSchedule(300, gamma_max=float(value)).num_classes == 300
