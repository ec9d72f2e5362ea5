"""The guard alone: what it lets pass and what it stops."""

import math

import pytest

from mdlm_mcd.curriculum import Curriculum
from mdlm_mcd.distillers.guard import LossGuard, StepSums
from mdlm_mcd.errors import ConfigError, DivergenceError

STAGE = Curriculum().at(0)
VOCAB = 50_258


def sums(distil, reveal=0.0, distil_rows=500.0, reveal_rows=5.0, tokens=1000.0):
    return StepSums(distil, reveal, distil_rows, reveal_rows, tokens)


def guard(mode="stop", kind="hybrid"):
    return LossGuard(mode, kind, VOCAB)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_at_once(value):
    with pytest.raises(DivergenceError, match=r"algo.loss=hybrid .* step 7"):
        guard().check(STAGE, 7, sums(value))


def test_a_loss_beyond_ignorance_stops_at_once():
    at_most = 10 * math.log(VOCAB) * 505
    guard().check(STAGE, 0, sums(0.99 * at_most))
    with pytest.raises(DivergenceError, match="nats per token learnt"):
        guard().check(STAGE, 0, sums(1.01 * at_most))


def test_a_loss_far_above_its_own_past_stops():
    watch = guard()
    for step in range(50):
        watch.check(STAGE, step, sums(100.0))
    watch.check(STAGE, 50, sums(1900.0))  # 19 times the mean: a bad batch
    with pytest.raises(DivergenceError, match="nats per token .* 20 times its mean"):
        watch.check(STAGE, 51, sums(4000.0))


def test_a_slowly_growing_loss_passes():
    watch = guard()
    for step in range(400):
        watch.check(STAGE, step, sums(10.0 * 1.01**step))
    assert watch.running > 0.1


def test_a_step_of_cross_entropy_alone_is_no_divergence():
    """Tiny batches at t near delta: all rows are revealed, each costs log(vocab)."""
    watch = guard()
    for step in range(100):
        watch.check(STAGE, step, sums(20.0))
    watch.check(STAGE, 100, StepSums(0.0, 3 * 10.8, 0.0, 3.0, 1000.0))
    watch.check(STAGE, 101, StepSums(0.0, 0.0, 0.0, 0.0, 1000.0))  # no masked row
    assert watch.running == pytest.approx(0.98 * 0.02 + 0.02 * 0.0324)


def test_kl_bwd_is_explained():
    with pytest.raises(DivergenceError) as error:
        guard(kind="kl_bwd").check(STAGE, 0, sums(100.0, reveal=5e6))
    for words in ("round 1, delta=0.00195312", "sees 5 of the 505 masked rows (0.99%)",
                  "which bring 100.00% of the loss", "one-hot",
                  "algo.loss=hybrid"):  # fmt: skip
        assert words in str(error.value), error.value


def test_a_loss_that_is_not_finite_is_told_by_its_parts():
    for kind in ("kl_bwd", "hybrid"):
        with pytest.raises(DivergenceError) as error:
            guard(kind=kind).check(STAGE, 0, sums(100.0, reveal=math.inf))
        assert "505 masked rows (0.99%), which add inf nats, and" in str(error.value)
    with pytest.raises(DivergenceError) as error:
        guard().check(STAGE, 0, StepSums(math.nan, 0.0, 500.0, 0.0, 1000.0))
    assert "masked" not in str(error.value)  # as in a model that masks nothing


def test_off_looks_away_also_as_yaml_writes_it():
    for mode in ("off", False):
        guard(mode).check(STAGE, 0, sums(math.nan))
    with pytest.raises(ConfigError, match="algo.guard=loud.*stop, warn, off"):
        guard("loud")
