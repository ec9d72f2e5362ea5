"""Several processes compute the update of one: DDP and FSDP, gloo, float64."""

import os
import zlib
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import lightning
import pytest
import several
import torch
from runs import SHORT, Stop, Watch, built, fit, opened

from mdlm_mcd.checkpoints import identity
from mdlm_mcd.distillers import strategies
from mdlm_mcd.errors import CheckpointError, ConfigError, UnfinishedError
from mdlm_mcd.minihost import main as minihost

pytestmark = several.forks

RUN = [
    "algo=mcd",
    *SHORT,
    "algo.delta0=1/16",
    "trainer.precision=64-true",
    "trainer.limit_val_batches=0",
    "optim.eps=1e-3",  # a gradient of 1e-17 instead of 0 is no step of 1e-3
    "strategy=ddp",
    "model.length=48",  # longer than the corpus's documents
]
PADDED = ("data.wrap=false",)
FSDP = (
    "strategy=fsdp",
    "strategy._target_=several.Sharded",
    "trainer.precision=32-true",
    "training.ema=0",
)


class Seen(Watch):
    """Notes the norm of each step's gradient, and which logits were computed."""

    def __init__(self):
        super().__init__()
        self.norms, self.gathered = [], []

    def on_train_start(self, trainer, module):
        real = module.encode

        def encode(backbone, *args):
            features = real(backbone, *args)
            self.gathered.append((backbone is module.backbone, features.linear is not None))
            return features

        module.encode = encode

    def on_before_optimizer_step(self, *args):
        pass  # of a sharded student, whose weights are not whole

    def on_train_batch_end(self, trainer, module, *args):
        super().on_train_batch_end(trainer, module, *args)
        if not trainer.fit_loop._should_accumulate():
            self.norms.append(float(trainer.callback_metrics["mcd/grad_norm"]))


def work(config, ckpt_path=None):
    # In float64 before Lightning restores weights, not after.
    model, trainer = fit(config, seen := Seen(), ckpt_path, built(config).double())
    assert trainer.world_size == config.trainer.devices
    return {
        "weights": Watch.flat(model),
        "average": model.ema and torch.cat([p.flatten() for p in model.ema.shadow_params]),
        "norms": torch.tensor(seen.norms).double(),
        "teachers": [zlib.crc32(x.numpy().tobytes()) for x in seen.teachers],
        "rounds": seen.rounds,
        "gathered": seen.gathered,
    }


def refusal(config, error, watch=None, ckpt_path=None):
    with pytest.raises(error) as raised:
        fit(config, watch, ckpt_path)
    return str(raised.value)


@pytest.fixture(scope="module")
def teacher_path(module_compose, tmp_path_factory):
    """One that knows rows of that length."""
    folder = tmp_path_factory.mktemp("teacher")
    minihost.run(
        module_compose(
            "trainer.max_steps=20",
            "optim.lr=1e-2",
            "model.length=48",
            "trainer.limit_val_batches=0",
            f"checkpointing.save_dir={folder}",
        )
    )
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def configure(module_compose, teacher_path, tmp_path_factory):
    """`configure(processes, *overrides)`: a run in a folder of its own."""

    def build(processes, *overrides):
        return module_compose(
            *RUN,
            f"algo.teacher_path={teacher_path}",
            f"trainer.devices={processes}",
            f"checkpointing.save_dir={tmp_path_factory.mktemp('run')}",
            *overrides,
        )

    return build


@pytest.fixture
def several_runs(configure, tmp_path):
    """`several_runs(processes, *overrides)`: each process's result of `work`."""

    def start(processes, *overrides, ckpt_path=None):
        config = configure(processes, *overrides)
        results = tmp_path / f"results-{processes}"
        return several.run(processes, partial(work, config, ckpt_path), results)

    return start


def checkpoints(config):
    return Path(config.checkpointing.save_dir, "checkpoints")


def with_checkpoints(configure, processes, *overrides):
    config = configure(
        processes,
        *PADDED,
        *overrides,
        "callbacks.checkpoint_every_n_steps.every_n_train_steps=1",
        "callbacks.checkpoint_every_n_steps.save_top_k=-1",
    )
    folder = checkpoints(config)
    return several.run(processes, partial(work, config), folder / "results"), folder


@pytest.fixture(scope="module")
def one(configure):
    """One process, each step in one go: (its result, its checkpoints)."""
    (end,), folder = with_checkpoints(configure, 1)
    return end, folder


@pytest.fixture(scope="module")
def two(configure):
    """Two processes, each step in two micro-batches: (results, checkpoints)."""
    return with_checkpoints(configure, 2, "loader.batch_size=2")


def same_update(one, many, since=0):
    for end in many:
        assert end["weights"].dtype == torch.float64
        assert len(end["norms"]) == 6 - since
        for name in ("weights", "average"):
            torch.testing.assert_close(end[name], one[name], rtol=0, atol=1e-10)
        torch.testing.assert_close(end["norms"], one["norms"][since:], rtol=1e-5, atol=1e-10)


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


@pytest.mark.slow
@pytest.mark.parametrize("processes,micros", [(1, 4), (4, 2)])
def test_more_processes(several_runs, one, processes, micros):
    batch = 8 // processes // micros
    many = several_runs(processes, f"loader.batch_size={batch}", *PADDED)
    same_update(one[0], many)
    same_teacher(many, micros)


# Within a round and at its start.
@pytest.mark.parametrize("before, after, step", [(1, 2, 4), (2, 1, 3)])
def test_other_processes_go_on(several_runs, one, two, before, after, step):
    path = str((one, two)[before - 1][1] / f"step-{step}.ckpt")
    many = several_runs(after, f"loader.batch_size={8 // after**2}", *PADDED, ckpt_path=path)
    same_update(one[0], many, since=step)


def test_a_checkpoint_that_some_do_not_see_is_not_resumed(configure, one, tmp_path):
    """As on a disk of one machine of several."""
    config = configure(2)

    def work():
        path = str(one[1] / "step-4.ckpt") if os.environ["RANK"] == "0" else None
        # As the hosts do: the setting stays where no file is.
        config.checkpointing.resume_ckpt_path = path or str(one[1] / "nowhere.ckpt")
        return refusal(config, CheckpointError, ckpt_path=path)

    for message in several.run(2, work, tmp_path / "results"):
        assert "there for some processes and not for others" in message


# FSDP -----------------------------------------------------------------------------


SHARDED = (*FSDP, "trainer.gradient_clip_val=null")
WHOLE = ("strategy.sharding_strategy=SHARD_GRAD_OP",)
PARTS = (
    "strategy.sharding_strategy=FULL_SHARD",
    "+strategy.parts=true",
    "algo.teacher_placement=sharded",
    "trainer.limit_val_batches=1",
    "trainer.val_check_interval=4",
)


def same_files(folder, other):
    found, wanted = (opened(f / "round-2.ckpt") for f in (folder, other))
    for mine, theirs in (
        (found["state_dict"], wanted["state_dict"]),
        (x["mdlm_mcd"]["teacher"]["backbone"] for x in (found, wanted)),
    ):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(mine[name], value, rtol=0, atol=1e-10)


@several.fsdp
@pytest.mark.parametrize("overrides,gathered", [(WHOLE, True), (PARTS, False)])
def test_sharded(configure, one, tmp_path, overrides, gathered):
    """The checkpoint, whole, of the student and of its teacher."""
    end, folder = one
    assert max(end["norms"]) < 1  # so it is not clipped
    config = configure(2, *PADDED, *SHARDED, *overrides, "loader.batch_size=2")
    results = several.run(2, partial(work, config), tmp_path / "results")
    same_files(checkpoints(config), folder)
    whole = len(end["weights"])
    for own in results:
        torch.testing.assert_close(own["norms"], end["norms"], rtol=1e-5, atol=0)
        assert 0.3 * whole < len(own["weights"]) < 0.7 * whole
        # Where the last layer is sharded by itself, the full logits are computed.
        assert own["gathered"] == [(True, gathered), (False, gathered)] * 12


@several.fsdp
@pytest.mark.slow
@pytest.mark.parametrize("overrides", [WHOLE, PARTS])
def test_whole_and_sharded_go_on_as_each_other(configure, one, tmp_path, monkeypatch, overrides):
    # All are in float64, which FSDP's own precision is not, and none clips.
    monkeypatch.setattr(identity, "TRAINER", {})
    step_4 = one[1] / "step-4.ckpt"
    sharded = configure(2, *PADDED, *SHARDED, *overrides)
    several.run(2, partial(work, sharded, step_4), tmp_path / "sharded")
    same_files(checkpoints(sharded), one[1])
    sharded = configure(2, *PADDED, *SHARDED, *overrides)
    several.run(2, partial(work, sharded), tmp_path / "first")
    path = checkpoints(sharded) / "round-1.ckpt"
    for processes in (0, 4):
        how = (*SHARDED, *overrides) if processes else ("training.ema=0",)
        other, count = configure(max(1, processes), *PADDED, *how), max(1, processes)
        several.run(count, partial(work, other, path), tmp_path / f"other-{processes}")
        same_files(checkpoints(other), one[1])


def test_all_say_that_the_run_has_ended_early(configure, tmp_path):
    config = configure(2)
    work = partial(refusal, config, UnfinishedError, Stop(4))
    for message in several.run(2, work, tmp_path / "results"):
        assert "The run ended at step 4 of 6, in round 2 of 2" in message
    saved = opened(checkpoints(config) / "last.ckpt")
    assert saved["global_step"] == 4 and saved["mdlm_mcd"]["teacher"]["round"] == 1


@several.fsdp
@pytest.mark.slow
def test_sharded_gradients_are_clipped_as_whole_ones(configure, tmp_path):
    """In float32."""
    clipped = ("trainer.precision=32-true", "trainer.gradient_clip_val=1e-2")
    ends = []
    on_cpu = ("strategy=fsdp", "strategy._target_=several.ShardedStrategy")
    for processes, strategy in ((1, ("strategy=ddp",)), (2, on_cpu)):
        config = configure(processes, *PADDED, *clipped, *strategy, "training.ema=0")
        several.run(processes, partial(train, config), tmp_path / str(processes))
        ends.append(opened(checkpoints(config) / "round-2.ckpt")["state_dict"])
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=0, atol=1e-6)


def train(config):
    fit(config)


@pytest.mark.parametrize(
    "strategy, overrides, words",
    [
        ("FSDPStrategy", (), "training.ema=0.995 .*training.ema=0, or"),
        ("FSDPStrategy", ("eval.generate_samples=true",), "eval.generate_samples=true.*=ddp"),
        ("FSDPStrategy", ("+strategy.state_dict_type=sharded",), "=sharded .*leave it out"),
        ("DDPStrategy", ("algo.teacher_placement=sharded",), "=sharded .*set strategy=fsdp"),
        ("ModelParallelStrategy", (), "strategy=ModelParallelStrategy.*strategy=ddp"),
    ],
)
def test_strategies_that_cannot_work(config, strategy, overrides, words):
    kind = getattr(lightning.pytorch.strategies, strategy, None)
    if kind is None:
        pytest.skip(f"this Lightning has no {strategy}")
    ema = ("training.ema=0",) if overrides else ("training.ema=0.995",)
    with pytest.raises(ConfigError, match=words):
        strategies.check(SimpleNamespace(strategy=kind()), config(*ema, *overrides))
