"""The guard: what it stops, what not, and the cause that it names."""

import functools
import math

import lightning as L
import pytest
import torch
from runs import changed, fit
from test_same_run import EXTRA

from mdlm_mcd.curriculum import Curriculum
from mdlm_mcd.distillers.divergence_guard import LossGuard, StepSums
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
    for words in (
        "round 1, delta=0.00195312",
        "sees 5 of the 505 masked rows (0.99%)",
        "which bring 100.00% of the loss",
        "one-hot",
        "algo.loss=hybrid",
    ):
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


# The cause that is named, in real runs ------------------------------------------------


@pytest.fixture(scope="module")
def config(module_compose):
    @functools.cache
    def base(algo):
        return module_compose(
            f"algo={algo}",
            "algo.init_from=scratch",
            "algo.rounds=2",
            "algo.steps_per_round=10",
            "trainer.max_steps=20",
            "optim.lr=1e-3",
            "trainer.limit_val_batches=0",
            *EXTRA.get(algo, ()),
        )

    return lambda *more, algo="mcd": changed(base(algo), *more)


class At(L.Callback):
    """change(module, batch) before step `at`."""

    def __init__(self, at, change):
        self.at, self.change = at, change

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.at:
            with torch.no_grad():
                self.change(module, batch)


def student_nan(module, batch):
    module.backbone.output_layer.linear.bias[3] = math.nan


def teacher_nan(module, batch):
    module.teacher.backbone.output_layer.linear.bias[3] = math.nan


def far_away(module, batch):
    """Finite weights, of which no finite loss comes."""
    for p in module.backbone.parameters():
        p.fill_(1e30)


def spike(module, batch):
    module.backbone.output_layer.linear.bias[7] = 1e4


CAUSES = {
    "precision": (
        ["trainer.precision=16-true"],
        None,
        r"trainer.precision=16-true .*trainer.precision=bf16 \(or 32\)",
    ),
    "student": ([], At(3, student_nan), "student's weights are not finite.*optim.lr"),
    "teacher": ([], At(3, teacher_nan), "the teacher's weights are not finite"),
    "rate": (["optim.lr=1e4"], None, "lower optim.lr"),
    "overflow": ([], At(3, far_away), "lower optim.lr"),
    "half": (["trainer.precision=bf16-mixed"], At(3, far_away), "lower optim.lr"),
    "finite": ([], At(3, spike), "lower optim.lr"),
    "start": (["algo.loss=ce"], At(0, spike), "no step was taken.*data"),
    "overflow at once": ([], At(0, far_away), "no step was taken.*algo.teacher_path"),
}


@pytest.mark.parametrize(
    "algo, cause",
    [
        *(("mcd", cause) for cause in CAUSES),
        ("sdtt", "precision"),
        ("cd4lm", "start"),
        ("sdtt", "rate"),
        ("dcd", "precision"),
        ("dcd", "student"),
    ],
)
def test_the_true_cause_is_named(config, cause, algo):
    more, callback, words = CAUSES[cause]
    with pytest.raises(DivergenceError, match=words) as error:
        fit(config(*more, algo=algo), callback)
    said = str(error.value).partition("was to be expected")[2]
    keys = ("trainer.precision", "optim.lr", "teacher's", "teacher_path", "the data")
    alone = {
        "precision": "trainer.precision",
        "teacher": "teacher's",
        "start": "the data",
        "overflow at once": "teacher_path",
    }
    assert {k for k in keys if k in said} == {alone.get(cause, "optim.lr")}, said


def test_float16_without_its_weights(config, monkeypatch):
    """Mixed precision is for GPUs: its name alone stands in for it here."""
    monkeypatch.setattr(L.Trainer, "precision", property(lambda self: "16-mixed"))
    with pytest.raises(DivergenceError, match="trainer.precision=16-mixed"):
        fit(config(), At(3, far_away))
    with pytest.raises(DivergenceError, match="lower optim.lr"):
        fit(config(), At(3, spike))  # a loss that is finite did not overflow


def test_the_cause_is_looked_for_only_when_a_bound_is_passed(caplog):
    asked = []

    def cause(finite):
        asked.append(finite)
        return "mine"

    watch = guard("warn")
    watch.check(STAGE, 0, sums(100.0), cause)
    assert not asked
    for _ in range(2):
        watch.check(STAGE, 1, sums(math.nan), cause)
    assert asked == [False] and "mine" in caplog.text
