"""A run that ends before its last round says so, and the same command goes on."""

import itertools
import re
from types import SimpleNamespace

import pytest
import torch
from runs import Stop, Watch, fit, opened

from mdlm_mcd.errors import ConfigError, UnfinishedError
from mdlm_mcd.minihost import main as minihost


def kept(folder):
    """Steps of the checkpoints of a run, by name."""
    return {
        path.name: opened(path)["global_step"]
        for path in (folder / "checkpoints").glob("*.ckpt")
        if not path.name.startswith("step-")
    }


def test_a_round_that_ended_is_gone_on_from(config, tmp_path, caplog):
    """Whatever the interval of checkpoints, and a finished run is known as one."""

    class Break(Watch):
        def on_train_batch_start(self, trainer, *args):
            super().on_train_batch_start(trainer, *args)
            if trainer.global_step == 4:
                raise KeyError("the power fails")

    given = config("callbacks.checkpoint_every_n_steps.every_n_train_steps=500")
    with pytest.raises(KeyError):
        fit(given, Break())
    assert kept(tmp_path) == {"round-1.ckpt": 3, "last.ckpt": 3}
    last = tmp_path / "checkpoints" / "last.ckpt"
    fit(given, ckpt_path=last)
    assert kept(tmp_path).items() >= {"round-2.ckpt": 6, "last.ckpt": 6}.items()
    assert "of an earlier run" not in caplog.text
    short = ("algo.rounds=1", "trainer.max_steps=3", "checkpointing.resume_from_ckpt=false")
    fit(config(*short, "seed=2"))
    assert "has round-1.ckpt, round-2.ckpt of an earlier run" in caplog.text
    assert kept(tmp_path)["last.ckpt"] == 3


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


def test_a_run_that_began_elsewhere_names_the_keys_by_which_it_goes_on(config, tmp_path):
    with pytest.raises(UnfinishedError):
        fit(config(), Stop(2))
    path = f"{tmp_path}/checkpoints/last.ckpt"
    given = (f"checkpointing.save_dir={tmp_path}/b", f"checkpointing.resume_ckpt_path={path}")
    with pytest.raises(UnfinishedError) as error:
        fit(config(*given), Stop(4), path)
    with pytest.raises(ConfigError, match="stands at step 2"):
        minihost.run(config(*given))
    minihost.run(config(*given, *re.findall(r"checkpointing\.[\w=/.-]+\w", str(error.value))))
    assert kept(tmp_path / "b")["last.ckpt"] == 6


@pytest.mark.parametrize("key", ["+trainer.max_time=00:00:00:00", "trainer.limit_train_batches=0"])
def test_no_step_at_all(config, tmp_path, key):
    with pytest.raises(UnfinishedError, match="at step 0 of 6.* the same command begins again"):
        fit(config(key))
    assert kept(tmp_path) == {}


def test_no_epoch_left(config):
    for _ in range(2):  # nor does it go on as it is
        with pytest.raises(UnfinishedError, match="at step 4 of 6.*trainer.max_epochs"):
            minihost.run(config("+trainer.max_epochs=2", "trainer.limit_train_batches=2"))
