"""Several processes compute the update of one: DDP and FSDP, gloo, float64."""

import os
import signal
import zlib
from functools import partial
from pathlib import Path

import pytest
import several
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from runs import EVERY, SHORT, Watch, built, fit, opened

from mdlm_mcd.checkpoints import identity
from mdlm_mcd.distillers import cd4lm
from mdlm_mcd.minihost import main as minihost

pytestmark = several.forks

LONG = ("model.length=48", "trainer.limit_val_batches=0")  # than the corpus's documents
RUN = (*SHORT, *LONG, *EVERY, "data.wrap=false", "trainer.precision=64-true", "strategy=ddp")
RUN += ("optim.eps=1e-3",)  # a gradient of 1e-17 instead of 0 is no step of 1e-3
SHARDED = ("loader.batch_size=2", "strategy=fsdp", "strategy._target_=several.Sharded")
SHARDED += ("trainer.precision=32-true", "training.ema=0", "trainer.gradient_clip_val=null")
WHOLE = ("strategy.sharding_strategy=SHARD_GRAD_OP",)
PARTS = ("strategy.sharding_strategy=FULL_SHARD", "+strategy.parts=true")
PARTS += ("algo.teacher_placement=sharded",)
PARTS += ("trainer.limit_val_batches=1", "trainer.val_check_interval=4")
LOGGED = ("grad_norm", "kl", "ce", "rows_distil", "rows_reveal", "student_entropy")


class Seen(Watch):
    """Notes what each step logs, and which logits were computed.

    stop: process 0 gets SIGTERM at the start of this micro-batch.
    """

    def __init__(self, stop=None):
        super().__init__()
        self.logged, self.gathered, self.stop = [], [], stop

    def on_train_start(self, trainer, module):
        real = module.encode

        def encode(backbone, *args):
            features = real(backbone, *args)
            self.gathered.append((backbone is module.backbone, features.linear is not None))
            return features

        module.encode = encode

    def on_train_batch_start(self, trainer, *args):
        super().on_train_batch_start(trainer, *args)
        if trainer.global_rank == 0 and len(self.weights) == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_before_optimizer_step(self, *args):
        pass  # of a sharded student, whose weights are not whole

    def on_train_batch_end(self, trainer, module, *args):
        super().on_train_batch_end(trainer, module, *args)
        if not trainer.fit_loop._should_accumulate():
            found, name = trainer.callback_metrics, module.config.algo.name
            logged = [found[f"{name}/{key}"] for key in LOGGED] + [found["trainer/loss"]]
            self.logged.append([float(x) for x in logged])


def work(config, ckpt_path=None):
    # In float64 before Lightning restores weights, not after.
    model, trainer = fit(config, seen := Seen(), ckpt_path, built(config).double())
    assert trainer.world_size == config.trainer.devices
    return {
        "weights": Watch.flat(model),
        "average": model.ema and torch.cat([p.flatten() for p in model.ema.shadow_params]),
        "logged": torch.tensor(seen.logged, dtype=torch.float64),
        "teachers": [zlib.crc32(x.numpy().tobytes()) for x in seen.teachers],
        "rounds": seen.rounds,
        "gathered": seen.gathered,
    }


def trained(config):
    fit(config)


def stopped(config):
    with pytest.raises(SIGTERMException):
        fit(config, Seen(stop=3), model=built(config).double())


@pytest.fixture(scope="module")
def configure(module_compose, tmp_path_factory):
    """`configure(processes, *overrides)`: a run in a folder of its own."""
    folder = tmp_path_factory.mktemp("teacher")
    where = f"checkpointing.save_dir={folder}"
    minihost.run(module_compose("trainer.max_steps=5", "optim.lr=1e-2", *LONG, where))

    def build(processes, *overrides, algo=("algo=mcd", "algo.delta0=1/16")):
        own = (f"trainer.devices={processes}", f"algo.teacher_path={folder}/checkpoints/last.ckpt")
        own += (f"checkpointing.save_dir={tmp_path_factory.mktemp('run')}",)
        return module_compose(*algo, *RUN, *own, *overrides)

    return build


def checkpoints(config):
    return Path(config.checkpointing.save_dir, "checkpoints")


def run(config, ckpt_path=None):
    """(each process's result of `work`, the folder of its checkpoints)"""
    folder = checkpoints(config)
    how = partial(work, config, ckpt_path)
    return several.run(config.trainer.devices, how, folder / "results"), folder


@pytest.fixture(scope="module")
def one(configure):
    """One process, each step in one go: (its result, its checkpoints)."""
    (end,), folder = run(configure(1))
    return end, folder


@pytest.fixture(scope="module")
def two(configure):
    """Two processes, each step in two micro-batches: (results, checkpoints)."""
    return run(configure(2, "loader.batch_size=2"))


def same_update(one, many, since=0):
    for end in many:
        assert end["weights"].dtype == torch.float64
        assert len(end["logged"]) == 6 - since
        for name in ("weights", "average"):
            torch.testing.assert_close(end[name], one[name], rtol=0, atol=1e-10)
        torch.testing.assert_close(end["logged"], one["logged"][since:], rtol=1e-5, atol=1e-10)


def same_teacher(many, micros):
    """It changes at the same step, to the same weights."""
    for end in many:
        assert end["rounds"] == [0] * 3 * micros + [1] * 3 * micros
        assert end["teachers"] == many[0]["teachers"]
        first, second = dict.fromkeys(end["teachers"])
        assert end["teachers"] == [first] * 3 * micros + [second] * 3 * micros


def test_two_processes_of_two_micro_batches(one, two):
    same_update(one[0], two[0])
    same_teacher(two[0], 2)


def test_a_mean_over_the_masked_tokens(configure, monkeypatch):
    """Of which the parts of a step have different numbers, beside their padding."""
    monkeypatch.setattr(cd4lm, "CEILING", 99.0)  # as of a better teacher
    (one,), _ = run(configure(1, algo=["algo=cd4lm"]))
    many, _ = run(configure(2, "loader.batch_size=2", algo=["algo=cd4lm"]))
    same_update(one, many)


MMD = ["algo=mmd", "algo.feature_block=0", "algo.rbf_alpha=0.1"]


@pytest.fixture(scope="module")
def matched(configure):
    """`algo=mmd`, whose teacher is a part of a network, in one process."""
    (end,), folder = run(configure(1, algo=MMD))
    return end, folder


def test_draws_and_features(configure, matched):
    many, _ = run(configure(2, "loader.batch_size=2", algo=MMD))
    same_update(matched[0], many)
    assert {crc for end in many for crc in end["teachers"]} == {matched[0]["teachers"][0]}


@pytest.mark.slow
@pytest.mark.parametrize("processes,micros", [(1, 4), (4, 2)])
def test_more_processes(configure, one, processes, micros):
    many, _ = run(configure(processes, f"loader.batch_size={8 // processes // micros}"))
    same_update(one[0], many)
    same_teacher(many, micros)


# Within a round and at its start.
@pytest.mark.parametrize("before, after, step", [(1, 2, 4), (2, 1, 3)])
def test_other_processes_go_on(configure, one, two, before, after, step):
    path = (one, two)[before - 1][1] / f"step-{step}.ckpt"
    many, _ = run(configure(after, f"loader.batch_size={8 // after**2}"), path)
    same_update(one[0], many, since=step)


# FSDP -----------------------------------------------------------------------------


def same_files(folder, other, atol=1e-10):
    ends = [opened(f / "round-2.ckpt") for f in (folder, other)]
    teachers = [end["mdlm_mcd"]["teacher"]["backbone"] for end in ends]
    torch.testing.assert_close(*teachers, rtol=0, atol=atol)
    torch.testing.assert_close(*(dict(end["state_dict"]) for end in ends), rtol=0, atol=atol)


@several.fsdp
@pytest.mark.parametrize(
    "overrides, gathered", [pytest.param(WHOLE, True, marks=pytest.mark.slow), (PARTS, False)]
)
def test_sharded(configure, one, overrides, gathered):
    """The checkpoint, whole, of the student and of its teacher."""
    end, folder = one
    assert end["logged"][:, 0].max() < 1  # so it is not clipped
    results, found = run(configure(2, *SHARDED, *overrides))
    same_files(found, folder)
    whole = len(end["weights"])
    for own in results:
        torch.testing.assert_close(own["logged"], end["logged"], rtol=1e-5, atol=0)
        assert 0.3 * whole < len(own["weights"]) < 0.7 * whole
        # Where the last layer is sharded by itself, the full logits are computed.
        assert own["gathered"] == [(True, gathered), (False, gathered)] * 12


@several.fsdp
@pytest.mark.slow
@pytest.mark.parametrize("overrides", [WHOLE, PARTS])
def test_features_are_sharded(configure, matched, overrides):
    """The student and the teacher of a few blocks, each whole in the checkpoint."""
    config = configure(2, *SHARDED, *overrides, algo=MMD)
    same_files(run(config)[1], matched[1])


@several.fsdp
@pytest.mark.slow
@pytest.mark.parametrize("overrides", [WHOLE, PARTS])
def test_whole_and_sharded_go_on_as_each_other(configure, one, monkeypatch, overrides):
    # All are in float64, which FSDP's own precision is not, and none clips.
    monkeypatch.setattr(identity, "TRAINER", {})
    _, sharded = run(configure(2, *SHARDED, *overrides), one[1] / "step-4.ckpt")
    same_files(sharded, one[1])
    _, again = run(configure(1, "training.ema=0"), sharded / "step-5.ckpt")
    same_files(again, one[1])


@several.fsdp
@pytest.mark.slow
def test_sharded_gradients_are_clipped_as_whole_ones(configure):
    """In float32, the one dtype of FSDP's own norm."""
    clipped = ("training.ema=0", "trainer.precision=32-true", "trainer.gradient_clip_val=1e-2")
    ends = []
    for processes, how in ((1, ()), (2, (*SHARDED, "+strategy.double=false"))):
        config = configure(processes, *how, *clipped)
        several.run(processes, partial(trained, config), checkpoints(config) / "results")
        ends.append(checkpoints(config))
    same_files(*ends, atol=1e-6)


@several.fsdp
@pytest.mark.slow
def test_sharded_is_stopped_and_its_file_damaged(configure, one, tmp_path):
    """SIGTERM to one process of two; then FSDP, which reads by itself, finds a wrong bit."""
    config = configure(2, *SHARDED, *PARTS)
    several.run(2, partial(stopped, config), tmp_path / "stopped")
    last = checkpoints(config) / "last.ckpt"
    assert opened(last)["global_step"] == 2
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    same_files(run(config, last)[1], one[1])
