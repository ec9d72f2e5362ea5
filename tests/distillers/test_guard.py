"""The guard: what it stops, what not, and what its message names."""

import math

import pytest
import torch

from mdlm_mcd.curriculum import Curriculum
from mdlm_mcd.distillers.callbacks.global_batch import GlobalBatch
from mdlm_mcd.distillers.divergence_guard import LossGuard
from mdlm_mcd.errors import DivergenceError

ROUND = Curriculum().at(0)
ROWS, TOKENS = 500.0, 1000.0
MOST = 10 * math.log(50_258) * ROWS


@pytest.fixture
def guard():
    return LossGuard("stop", "kl_bwd", 50_258)


def test_a_loss_beyond_ignorance_stops_at_once(guard):
    words = r"algo.loss=kl_bwd is .* step 7 \(round 1, delta=0.00195.*=hybrid; lower optim"
    for value in (math.nan, math.inf, -math.inf, 1.01 * MOST):
        with pytest.raises(DivergenceError, match=words):
            guard.check(ROUND, 7, value, ROWS, TOKENS)
    guard.check(ROUND, 8, 0.99 * MOST, ROWS, TOKENS)


def test_a_loss_far_above_its_own_past_stops_and_a_slow_growth_does_not(guard):
    for step in range(400):
        guard.check(ROUND, step, 10.0 * 1.01**step, ROWS, TOKENS)
    assert guard.running > 0.1
    guard.running = 0.1
    guard.check(ROUND, 400, 1900.0, ROWS, TOKENS)  # 19 times the mean: a bad batch
    with pytest.raises(DivergenceError, match=r" 4 per token \(at most 2\.\d+\)"):
        guard.check(ROUND, 401, 4000.0, ROWS, TOKENS)


def test_a_step_of_cross_entropy_alone_is_no_divergence(guard):
    """Tiny batches at t near delta: all rows are revealed, each costs log(vocab)."""
    guard.running = 0.02
    guard.check(ROUND, 100, 3 * 10.8, 3.0, TOKENS)
    guard.check(ROUND, 101, 0.0, 0.0, TOKENS)  # no masked row
    assert guard.running == pytest.approx(0.98 * 0.02 + 0.02 * 0.0324)


@pytest.mark.parametrize("hook", ["on_train_batch_start", "read", "on_train_end"])
def test_a_device_is_read_before_the_next_step_or_file(guard, hook):
    """The sums of a step that a device still computes are the guard's later, and once."""
    batch = GlobalBatch(guard)
    batch._unread = ROUND, 3, torch.tensor([math.nan, math.nan, 0.0, 20.0, 10.0, 0.0, 10.0])
    with pytest.raises(DivergenceError, match="step 3"):
        getattr(batch, hook)(None, None, {})
    getattr(batch, hook)(None, None, {})
