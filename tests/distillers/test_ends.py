"""A run that ends before its last round says so, and the same command goes on."""

import itertools
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from runs import Stop, fit, opened

from mdlm_mcd.errors import CheckpointError, UnfinishedError
from mdlm_mcd.minihost import main as minihost


def kept(folder):
    """Steps of the checkpoints of a run, by name."""
    return {
        path.name: opened(path)["global_step"]
        for path in (folder / "checkpoints").glob("*.ckpt")
        if not path.name.startswith("step-")
    }


@pytest.mark.parametrize("algo, step", [("mcd", 2), ("dcd", 3)])
def test_a_callback_that_stops_the_trainer(config, tmp_path, algo, step):
    with pytest.raises(UnfinishedError) as error:
        fit(config(algo=algo), Stop(step))
    message, path = str(error.value), tmp_path / "checkpoints" / "last.ckpt"
    assert f"at step {step} of 6, in round {step // 3 + 1} of 2" in message
    assert f"the same command goes on from {path}" in message
    assert kept(tmp_path)["last.ckpt"] == step
    minihost.run(config(algo=algo))
    rounds = {"round-1.ckpt": 3, "round-2.ckpt": 6, "last.ckpt": 6}
    assert rounds.items() <= kept(tmp_path).items()


@pytest.fixture
def ticking(monkeypatch):
    """Each look at Lightning's clock takes a second."""
    clock = itertools.count()
    fake = SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr("lightning.pytorch.callbacks.timer.time", fake)


def test_slices_of_time(config, tmp_path, ticking):
    """The same command until the rounds are done: the weights of one run."""
    more = ("loader.batch_size=4", "model.dropout=0.2")
    whole, _ = fit(config(*more, f"checkpointing.save_dir={tmp_path}/whole"))
    again, ends = config(*more, "+trainer.max_time=00:00:00:04"), []
    for _ in range(9):
        try:
            minihost.run(again)
            break
        except UnfinishedError as error:
            ends.append(kept(tmp_path)["last.ckpt"])
            assert f"at step {ends[-1]} of 6" in str(error)
    assert len(ends) > 1 and ends == sorted({*ends})
    saved = opened(tmp_path / "checkpoints" / "last.ckpt")
    assert saved["global_step"] == 6
    for name, value in whole.state_dict().items():
        assert torch.equal(saved["state_dict"][name], value)
    before = kept(tmp_path)
    minihost.run(again)  # finished
    assert kept(tmp_path) == before and not list(tmp_path.rglob("last-v*"))


def test_no_step_at_all_or_no_epoch_left(config, tmp_path):
    with pytest.raises(UnfinishedError, match="at step 0 of 6.* the same command begins again"):
        fit(config("+trainer.max_time=00:00:00:00"))
    assert kept(tmp_path) == {}
    for _ in range(2):  # nor does it go on as it is
        with pytest.raises(UnfinishedError, match="at step 4 of 6.*trainer.max_epochs"):
            minihost.run(config("+trainer.max_epochs=2", "trainer.limit_train_batches=2"))


def test_a_round_whose_file_cannot_be_written(config, tmp_path):
    (tmp_path / "checkpoints" / "round-1.ckpt" / "x").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="takes no checkpoint"):
        fit(config())


def test_an_interrupted_run_ends_as_lightning_lets_it(config):
    class Interrupt(L.Callback):
        def on_train_batch_start(self, trainer, *args):
            if trainer.global_step == 2:
                raise KeyboardInterrupt

    try:
        fit(config(), Interrupt())
    except SystemExit as end:  # from Lightning 2.5 or so on
        assert end.code == 1
