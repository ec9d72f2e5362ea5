"""The guard: what it stops, what not, and what its message names."""

import math

import pytest
import torch

from mdlm_mcd.curriculum import Curriculum
from mdlm_mcd.distillers.callbacks.global_batch import GlobalBatch
from mdlm_mcd.distillers.divergence_guard import LossGuard, StepSums
from mdlm_mcd.errors import DivergenceError

ROUND = Curriculum().at(0)
VOCAB = 50_258


def sums(distil, reveal=0.0, distil_rows=500.0, reveal_rows=5.0, tokens=1000.0):
    return StepSums(distil, reveal, distil_rows, reveal_rows, tokens)


def guard(mode="stop", kind="hybrid"):
    return LossGuard(mode, kind, VOCAB)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_at_once(value):
    for kind, given in (("hybrid", sums(value)), ("kl_bwd", sums(100.0, reveal=value))):
        with pytest.raises(DivergenceError, match=rf"algo.loss={kind} .* step 7"):
            guard(kind=kind).check(ROUND, 7, given)


def test_a_loss_beyond_ignorance_stops_at_once():
    at_most = 10 * math.log(VOCAB) * 505
    guard().check(ROUND, 0, sums(0.99 * at_most))
    with pytest.raises(DivergenceError, match="nats per token learnt.*lower optim.lr"):
        guard().check(ROUND, 0, sums(1.01 * at_most))


def test_a_loss_far_above_its_own_past_stops_and_a_slow_growth_does_not():
    watch = guard()
    for step in range(50):
        watch.check(ROUND, step, sums(100.0))
    watch.check(ROUND, 50, sums(1900.0))  # 19 times the mean: a bad batch
    with pytest.raises(DivergenceError, match=r" 4 per token \(at most 2\.\d+\)"):
        watch.check(ROUND, 51, sums(4000.0))
    watch = guard()
    for step in range(400):
        watch.check(ROUND, step, sums(10.0 * 1.01**step))
    assert watch.running > 0.1


def test_a_step_of_cross_entropy_alone_is_no_divergence():
    """Tiny batches at t near delta: all rows are revealed, each costs log(vocab)."""
    watch = guard()
    for step in range(100):
        watch.check(ROUND, step, sums(20.0))
    watch.check(ROUND, 100, StepSums(0.0, 3 * 10.8, 0.0, 3.0, 1000.0))
    watch.check(ROUND, 101, StepSums(0.0, 0.0, 0.0, 0.0, 1000.0))  # no masked row
    assert watch.running == pytest.approx(0.98 * 0.02 + 0.02 * 0.0324)


def test_kl_bwd_is_explained():
    with pytest.raises(DivergenceError) as error:
        guard(kind="kl_bwd").check(ROUND, 0, sums(100.0, reveal=5e6))
    for words in ("round 1, delta=0.00195312", "the 5 of 505 rows", "one-hot", "algo.loss=hybrid"):
        assert words in str(error.value), error.value


@pytest.mark.parametrize("hook", ["on_train_batch_start", "read", "on_train_end"])
def test_a_device_is_read_before_the_next_step_or_file(hook):
    """The sums of a step that a device still computes are the guard's later, and once."""
    batch = GlobalBatch(guard())
    batch._unread = ROUND, 3, torch.tensor([math.nan, 0.0, 5.0, 5.0, 10.0])
    with pytest.raises(DivergenceError, match="step 3"):
        getattr(batch, hook)(None, None, {})
    getattr(batch, hook)(None, None, {})
