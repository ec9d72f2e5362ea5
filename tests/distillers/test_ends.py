"""A run that ends before its last round says so, and the same command goes on."""

import functools
import itertools
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from runs import Watch, changed, fit
from test_same_run import EXTRA

from mdlm_mcd.errors import CheckpointError, ConfigError, UnfinishedError
from mdlm_mcd.minihost import dataloader
from mdlm_mcd.minihost import main as minihost

ROUNDS = (
    "algo.init_from=scratch",
    "algo.rounds=2",
    "algo.steps_per_round=4",
    "trainer.max_steps=8",
    "trainer.num_sanity_val_steps=0",
)


@pytest.fixture(scope="module")
def base(module_compose):
    return functools.cache(
        lambda algo: module_compose(f"algo={algo}", *ROUNDS, *EXTRA.get(algo, ()))
    )


@pytest.fixture
def config(base, tmp_path):
    def build(*more, algo="mcd"):
        return changed(base(algo), f"checkpointing.save_dir={tmp_path}", *more)

    return build


def kept(folder):
    """Steps of the checkpoints of a run, by name."""
    return {
        path.name: torch.load(path, weights_only=True)["global_step"]
        for path in (folder / "checkpoints").glob("*.ckpt")
        if not path.name.startswith("step-")
    }


class Steps(L.Callback):
    """Counts optimizer steps; stops the trainer after `last` of them."""

    def __init__(self, last=None):
        self.count, self.last = 0, last

    def on_train_batch_end(self, trainer, *args):
        self.count = trainer.global_step
        trainer.should_stop |= self.count == self.last


# Before the first step ----------------------------------------------------------------


@pytest.mark.parametrize("algo", ["mcd", "dcd"])
@pytest.mark.parametrize(
    "more, found",
    [
        (["+trainer.max_epochs=1", "trainer.limit_train_batches=3"], "after 3 of"),
        (
            ["+trainer.max_epochs=2", "trainer.limit_train_batches=3", "loader.batch_size=4"],
            "after 4 of",
        ),  # two batches a step, or the last
        (["+trainer.max_epochs=7", "trainer.limit_train_batches=1"], "after 7 of"),
    ],
)
def test_epochs_that_cannot_reach_the_last_round(config, algo, more, found):
    steps = Steps()
    with pytest.raises(ConfigError) as error:
        fit(config(*more, algo=algo), steps)
    said = str(error.value)
    assert more[0].lstrip("+") in said and found in said and steps.count == 0
    assert more[1] in said and "algo.rounds=2 * algo.steps_per_round=4" in said


def test_epochs_that_reach_it(config):
    steps = Steps()
    fit(config("+trainer.max_epochs=4", "trainer.limit_train_batches=2"), steps)
    assert steps.count == 8


@pytest.mark.parametrize(
    "algo, value", [("mcd", "true"), ("sdtt", "3"), ("cd4lm", "true"), ("dcd", "1")]
)
def test_a_trial_run_of_lightnings(config, monkeypatch, algo, value):
    monkeypatch.setattr(dataloader, "get_dataloaders", lambda *args: pytest.fail("read the text"))
    with pytest.raises(ConfigError, match="^trainer.fast_dev_run=(True|1|3) .*leave it"):
        minihost.run(config(f"+trainer.fast_dev_run={value}", algo=algo))


# At the end ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "algo, step", [("mcd", 3), ("mcd", 4), ("sdtt", 6), ("cd4lm", 7), ("dcd", 1)]
)
def test_a_callback_that_stops_the_trainer(config, tmp_path, algo, step):
    with pytest.raises(UnfinishedError) as error:
        fit(config(algo=algo), Steps(step))
    said, path = str(error.value), tmp_path / "checkpoints" / "last.ckpt"
    assert f"at step {step} of 8, in round {step // 4 + 1} of 2" in said
    assert "trainer.should_stop" in said and f"without it goes on from {path}" in said
    assert kept(tmp_path)["last.ckpt"] == step
    minihost.run(config(algo=algo))
    rounds = {"round-1.ckpt": 4, "round-2.ckpt": 8, "last.ckpt": 8}
    assert rounds.items() <= kept(tmp_path).items()


def test_early_stopping(config, tmp_path):
    stop = "+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping"
    more = (
        stop,
        "+callbacks.stop.monitor=val/nll",
        "+callbacks.stop.patience=1",
        "+callbacks.stop.min_delta=100",
        "trainer.val_check_interval=2",
    )
    with pytest.raises(UnfinishedError, match="at step 4 of 8.*EarlyStopping"):
        minihost.run(config(*more))
    minihost.run(config())
    assert kept(tmp_path)["round-2.ckpt"] == 8


@pytest.fixture
def ticking(monkeypatch):
    """Each look at Lightning's clock takes a second."""
    clock = itertools.count()
    fake = SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr("lightning.pytorch.callbacks.timer.time", fake)


@pytest.mark.parametrize("algo", ["mcd", "sdtt"])
def test_slices_of_time(config, tmp_path, ticking, algo):
    """The same command until the rounds are done: the weights of one run."""
    more = ("loader.batch_size=4", "model.dropout=0.2")
    whole, _ = fit(config(*more, f"checkpointing.save_dir={tmp_path}/whole", algo=algo))
    again, ends = config(*more, "+trainer.max_time=00:00:00:07", algo=algo), []
    for _ in range(9):
        try:
            minihost.run(again)
            break
        except UnfinishedError as error:
            assert "trainer.max_time=" in str(error)
            assert "the same command goes on from " in str(error)
            ends.append(kept(tmp_path)["last.ckpt"])
            assert f"at step {ends[-1]} of 8" in str(error)
    assert len(ends) > 1 and ends == sorted({*ends})
    held = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert held["global_step"] == 8
    for name, value in whole.state_dict().items():
        assert torch.equal(held["state_dict"][name], value)
    before = kept(tmp_path)
    minihost.run(again)  # finished
    assert kept(tmp_path) == before and not list(tmp_path.rglob("last-v*"))


def test_no_time_at_all(config, tmp_path):
    with pytest.raises(UnfinishedError, match="at step 0 of 8.*trainer.max_time"):
        minihost.run(config("+trainer.max_time=00:00:00:00"))
    assert kept(tmp_path) == {}


def test_no_batch_at_all(config):
    with pytest.raises(UnfinishedError, match="trainer.limit_train_batches=0"):
        fit(config("trainer.limit_train_batches=0"))


def test_epochs_of_a_stream_end_where_no_length_said_so(config, tmp_path, monkeypatch):
    class Stream(torch.utils.data.IterableDataset):
        def __init__(self, rows):
            self.rows = rows

        def __iter__(self):
            return itertools.islice(iter(self.rows), 24)

    real = dataloader.get_dataloaders

    def streamed(config, tokenizer, **kwargs):
        train, valid = real(config, tokenizer, **kwargs)
        rows = [train.dataset[i] for i in range(24)]
        return torch.utils.data.DataLoader(Stream(rows), batch_size=8), valid

    monkeypatch.setattr(dataloader, "get_dataloaders", streamed)
    monkeypatch.setattr(dataloader, "check_rows", lambda *args: None)
    with pytest.raises(UnfinishedError) as error:
        minihost.run(config("+trainer.max_epochs=2"))
    said = str(error.value)
    assert "at step 6 of 8" in said and "trainer.max_epochs=2" in said
    assert "without trainer.max_epochs" in said
    # Nor does it go on as it is: no step is left to it.
    with pytest.raises(UnfinishedError, match="at step 6 of 8.*trainer.max_epochs=2"):
        minihost.run(config("+trainer.max_epochs=2"))
    minihost.run(config())
    assert kept(tmp_path)["round-2.ckpt"] == 8


def test_a_round_whose_file_is_not_there(config, tmp_path):
    class Loses(Steps):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == 6:
                (tmp_path / "checkpoints" / "round-1.ckpt").unlink()

    with pytest.raises(CheckpointError, match="round-1.ckpt"):
        fit(config(), Loses())


def test_a_round_whose_file_cannot_be_written(config, tmp_path):
    (tmp_path / "checkpoints" / "round-1.ckpt" / "x").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="takes no checkpoint"):
        fit(config(), Watch())


def test_a_round_of_before_is_not_made_again(config, tmp_path):
    with pytest.raises(UnfinishedError):
        fit(config(), Steps(5))
    (tmp_path / "checkpoints" / "round-1.ckpt").unlink()
    minihost.run(config())
    assert "round-1.ckpt" not in kept(tmp_path)


def test_an_interrupted_run_ends_as_lightning_lets_it(config, tmp_path):
    class Interrupt(L.Callback):
        def on_train_batch_start(self, trainer, *args):
            if trainer.global_step == 2:
                raise KeyboardInterrupt

    try:
        fit(config(), Interrupt())
    except SystemExit as end:  # from Lightning 2.5 or so on
        assert end.code == 1
