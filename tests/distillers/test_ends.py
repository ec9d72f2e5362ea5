"""A run that ends before its last round says so, and the same command goes on."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from runs import fit, opened

from mdlm_mcd.errors import UnfinishedError
from mdlm_mcd.minihost import main as minihost


def kept(folder):
    """Steps of the checkpoints of a run, by name."""
    return {
        path.name: opened(path)["global_step"]
        for path in (folder / "checkpoints").glob("*.ckpt")
        if not path.name.startswith("step-")
    }


def test_slices_of_time(config, tmp_path, monkeypatch):
    """The same command until the rounds are done: the weights of one run."""
    clock = itertools.count()  # each look at Lightning's clock takes a second
    fake = SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr("lightning.pytorch.callbacks.timer.time", fake)
    more = ("loader.batch_size=4", "model.dropout=0.2")
    whole, _ = fit(config(*more, f"checkpointing.save_dir={tmp_path}/whole"))
    again, ends = config(*more, "+trainer.max_time=00:00:00:04"), []
    for _ in range(9):
        try:
            minihost.run(again)
            break
        except UnfinishedError as error:
            ends.append(kept(tmp_path)["last.ckpt"])
            assert f"the same command goes on from {tmp_path}/checkpoints/last" in str(error)
    assert len(ends) > 1 and ends == sorted({*ends}) and kept(tmp_path)["last.ckpt"] == 6
    found = opened(tmp_path / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(torch.equal(found[name], value) for name, value in whole.state_dict().items())
    assert not list(tmp_path.rglob("last-v*"))


@pytest.mark.parametrize("key", ["+trainer.max_time=00:00:00:00", "trainer.limit_train_batches=0"])
def test_no_step_at_all(config, tmp_path, key):
    with pytest.raises(UnfinishedError, match="at step 0 of 6.* the same command begins again"):
        fit(config(key))
    assert kept(tmp_path) == {}


def test_no_epoch_left(config):
    for _ in range(2):  # nor does it go on as it is
        with pytest.raises(UnfinishedError, match="at step 4 of 6.*trainer.max_epochs"):
            minihost.run(config("+trainer.max_epochs=2", "trainer.limit_train_batches=2"))
