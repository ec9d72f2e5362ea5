"""The schedule of `algo=dcd`: what it falls from and to, and what it cannot be made of."""

import re

import pytest
import torch

from mdlm_mcd.distillers import dcd as uniform
from mdlm_mcd.errors import ConfigError


@pytest.mark.parametrize("size", [3, 300, 50_258])
def test_a_schedule_falls_between_the_ends_asked_for(size):
    ends = (0.999, 0.01)
    schedule = uniform.GaussianSchedule(size, *(uniform.gamma_of(a, size) for a in ends))
    alpha_t = schedule(torch.linspace(0, 1, 65))
    assert alpha_t.dtype == torch.float32 and (alpha_t.diff() < 0).all()
    assert alpha_t[[0, -1]].tolist() == pytest.approx(ends, abs=1e-5)


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
