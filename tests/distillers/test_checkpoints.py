"""Files of a run: whole or not there, the last two kept, damage recognised."""

import logging
import os
import resource
from types import SimpleNamespace

import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from runs import Watch, changed, fit, opened

from mdlm_mcd.distillers.checkpoint_io import SafeCheckpointIO, use_safe_files
from mdlm_mcd.errors import CheckpointError


def content(step):
    weights = torch.full((5000,), float(step))
    return {"global_step": step, "state_dict": {"weight": weights}}


def step_of(path):
    saved = opened(path)
    assert (saved["state_dict"]["weight"] == saved["global_step"]).all()
    return saved["global_step"]


@pytest.fixture
def saved(tmp_path):
    """A folder with the checkpoints of steps 1 and 2."""
    for step in (1, 2):
        SafeCheckpointIO().save_checkpoint(content(step), str(tmp_path / "last.ckpt"))
    return tmp_path


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("links", [True, False])
def test_after_a_kill_anywhere_in_a_save(saved, monkeypatch, links):
    """Every call to the system in turn is the last one: a good `last.ckpt` remains."""

    class Killed(BaseException):
        pass

    calls, left = [], [0]

    def dying(name, real):
        def call(*args, **kwargs):
            if left[0] == 0:
                raise Killed(name)
            left[0] -= 1
            calls.append(name)
            return real(*args, **kwargs)

        return call

    def refused(*args):
        raise OSError("links are refused")

    for module, name in ((os, "replace"), (os, "fsync"), (torch, "save")):
        monkeypatch.setattr(module, name, dying(name, getattr(module, name)))
    monkeypatch.setattr(os, "link", dying("link", os.link if links else refused))
    last, finished, ends = saved / "last.ckpt", False, []
    while not finished:
        calls.clear()
        left[0] = len(ends)
        try:
            SafeCheckpointIO().save_checkpoint(content(3), str(last))
            finished = True
        except Killed as end:
            ends.append(str(end))
        assert step_of(last) in (2, 3)
        assert step_of(saved / "last.previous.ckpt") in (1, 2, 3)
        left[0] = -1
        assert SafeCheckpointIO().load_checkpoint(str(last))["global_step"] in (2, 3)
    kept = ["link", "replace"] if links else ["link"]
    assert ends == ["save", "fsync", *kept, "replace", "fsync"] and calls == ends
    left[0] = -1
    SafeCheckpointIO().save_checkpoint(content(4), str(last))
    assert names(saved) == ["last.ckpt", "last.previous.ckpt"]


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    """One bit of a weight, which `torch.load` does not notice."""
    data = bytearray(path.read_bytes())
    data[data.index(bytes(torch.full((9,), 2.0).numpy().tobytes())) + 6] ^= 1
    path.write_bytes(data)
    assert (opened(path)["state_dict"]["weight"] != 2).sum() == 1


@pytest.mark.parametrize("harm", [cut, flip, lambda path: path.write_bytes(b"")])
def test_a_damaged_last_checkpoint_is_passed_over(saved, caplog, harm):
    last, files = saved / "last.ckpt", SafeCheckpointIO()
    harm(last)
    with caplog.at_level(logging.WARNING):
        assert files.load_checkpoint(str(last))["global_step"] == 1
    (message,) = caplog.messages
    assert "last.ckpt cannot be read" in message and "goes on from" in message
    # It does not take the place of the good one.
    files.save_checkpoint(content(3), str(last))
    assert step_of(last) == 3 and step_of(saved / "last.previous.ckpt") == 1
    files.save_checkpoint(content(4), str(last))
    assert step_of(saved / "last.previous.ckpt") == 3


def test_two_damaged_checkpoints_are_refused(saved):
    for name in ("last.ckpt", "last.previous.ckpt"):
        cut(saved / name)
    with pytest.raises(CheckpointError, match="Name another.*resume_from_ckpt=false"):
        SafeCheckpointIO().load_checkpoint(str(saved / name))


def test_a_full_disk(saved):
    """A limit on the size of files stands in for it: the system refuses the write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, before[1]))
    words = rf"checkpointing.save_dir={saved.parent} takes no checkpoint \(File too large\)"
    try:
        with pytest.raises(CheckpointError, match=words):
            SafeCheckpointIO().save_checkpoint(content(3), str(saved / "last.ckpt"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(saved) == ["last.ckpt", "last.previous.ckpt"]
    assert step_of(saved / "last.ckpt") == 2


def test_files_that_a_user_chose_are_left_alone():
    mine = type("Mine", (TorchCheckpointIO,), {})()
    strategy = SimpleNamespace(checkpoint_io=mine)
    use_safe_files(strategy)
    assert strategy.checkpoint_io is mine


def test_a_run_goes_on_from_the_checkpoint_before(trained, tmp_path, caplog):
    folder, config, watch, _ = trained("mcd")
    copies = tmp_path / "checkpoints"
    copies.mkdir()
    for name, step in (("last.ckpt", 5), ("last.previous.ckpt", 4)):
        (copies / name).write_bytes((folder / f"step-{step}.ckpt").read_bytes())
    cut(copies / "last.ckpt")
    config = changed(config, f"checkpointing.save_dir={tmp_path}")
    with caplog.at_level(logging.WARNING):
        fit(config, again := Watch(), copies / "last.ckpt")
    assert "last.previous.ckpt, the one before it" in caplog.text
    assert again.losses == watch.losses[8:]
