"""Rounds, delta and tau of Section 4.1."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdlm_mcd.curriculum import Curriculum
from mdlm_mcd.errors import ConfigError


def test_the_papers_schedule():
    curriculum = Curriculum()
    assert curriculum.total_steps == 50_000
    rounds = [curriculum.at(i * 10_000) for i in range(5)]
    assert [r.delta for r in rounds] == [2**i / 512 for i in range(5)]
    assert [r.tau for r in rounds] == [0.96, 0.93, 0.9, 0.87, 0.84]
    assert all(r.is_first_step for r in rounds)


def test_a_gap_may_stay_or_be_left_to_the_method():
    fixed = Curriculum(3, 10, delta0=1 / 64, growth=1)
    assert [fixed.at(i).delta for i in (0, 10, 20)] == [1 / 64] * 3
    assert math.isnan(Curriculum(3, 10, delta0=None).at(0).delta)
    assert Curriculum(10**12, 1, None, tau_step=0.0).total_steps == 10**12  # at once


@given(rounds=st.integers(1, 6), steps=st.integers(1, 50), where=st.floats(0, 1))
def test_every_step_belongs_to_one_round(rounds, steps, where):
    curriculum = Curriculum(rounds, steps, delta0=1 / 128)
    step = int(where * (curriculum.total_steps - 1))
    found = curriculum.at(step)
    assert found.index == step // steps
    assert found.first_step <= step < found.first_step + steps
    assert found.is_first_step == (step == found.first_step)


@pytest.mark.parametrize(
    "settings,words",
    [
        (dict(rounds=10), ["algo.delta0=0.001953125", "round 10", "below 1"]),
        (dict(delta0=0.5, rounds=2), ["algo.delta0=0.5", "delta=1", "round 2"]),
        (dict(delta0=0.0), ["algo.delta0=0.0", "positive"]),
        (dict(delta0=float("nan")), ["algo.delta0=nan", "finite"]),
        (dict(growth=0.0), ["algo.growth=0.0", "positive"]),
        (dict(delta0=0.5, growth=3.0, rounds=2), ["delta=1.5", "growth=3", "below 1"]),
        (dict(tau0=0.1), ["algo.tau0=0.1", "round 5", "tau_step"]),
        (dict(tau_step=float("inf")), ["algo.tau_step=inf", "finite"]),
        (dict(rounds=0), ["algo.rounds=0", "at least 1"]),
        (dict(rounds=2.5), ["algo.rounds=2.5", "whole number"]),
        (dict(steps_per_round=0), ["algo.steps_per_round=0", "at least 1"]),
        (dict(tau0=None), ["algo.tau0=None", "finite"]),
        (dict(growth="2"), ["algo.growth=2", "finite"]),
        (dict(delta0=True), ["algo.delta0=True", "finite"]),
        (dict(tau0=10**400), ["algo.tau0=1000", "finite"]),
        (dict(growth=1.001, tau_step=0.0, rounds=10**9), ["delta=inf", "below 1"]),
    ],
)
def test_impossible_settings_name_the_key_and_the_round(settings, words):
    with pytest.raises(ConfigError) as error:
        Curriculum(**settings)
    assert all(word in str(error.value) for word in words), error.value


def test_steps_that_are_not_the_rounds_are_refused():
    curriculum = Curriculum(2, 10)
    curriculum.check_max_steps(20)
    for call, words in (
        (lambda: curriculum.at(-1), "trainer.max_steps=20"),
        (lambda: curriculum.at(20), "trainer.max_steps=20"),
        (lambda: curriculum.check_max_steps(50), "trainer.max_steps=20"),
    ):
        with pytest.raises(ConfigError, match=words):
            call()
