"""Files of a run: whole or not there, the last two kept, damage recognised."""

import logging
import os
import resource
import shutil

import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from runs import fit

from mdlm_mcd.checkpoints.files import damage, newest_checkpoint
from mdlm_mcd.distillers import checkpoint_io as checkpoints
from mdlm_mcd.distillers import validate_run
from mdlm_mcd.distillers.checkpoint_io import SafeCheckpointIO
from mdlm_mcd.errors import CheckpointError, ConfigError
from mdlm_mcd.minihost import dataloader
from mdlm_mcd.minihost import main as minihost


def content(step):
    weights = torch.full((5000,), float(step))
    return {"global_step": step, "state_dict": {"weight": weights}}


def step_of(path):
    held = torch.load(path, weights_only=True)
    assert (held["state_dict"]["weight"] == held["global_step"]).all()
    return held["global_step"]


@pytest.fixture
def saved(tmp_path):
    """A folder with the checkpoints of steps 1 and 2."""
    for step in (1, 2):
        SafeCheckpointIO().save_checkpoint(content(step), str(tmp_path / "last.ckpt"))
    return tmp_path


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_the_last_two_are_kept(saved):
    last, previous = saved / "last.ckpt", saved / "last.previous.ckpt"
    assert names(saved) == ["last.ckpt", "last.previous.ckpt"]
    assert (step_of(last), step_of(previous)) == (2, 1)
    files = SafeCheckpointIO()
    for step in (3, 4):
        files.save_checkpoint(content(step), str(last))
        assert (step_of(last), step_of(previous)) == (step, step - 1)
    files.save_checkpoint(content(4), str(saved / "round-1.ckpt"))
    assert names(saved) == ["last.ckpt", "last.previous.ckpt", "round-1.ckpt"]
    assert files.load_checkpoint(str(last))["global_step"] == 4


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

    for module, name in ((os, "replace"), (os, "fsync"), (torch, "save"), (shutil, "copyfile")):
        monkeypatch.setattr(module, name, dying(name, getattr(module, name)))
    link = os.link if links else refused
    monkeypatch.setattr(os, "link", dying("link", link))
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
    wanted = ["save", "fsync", "link", "replace", "replace", "fsync"]
    if not links:
        wanted.insert(3, "copyfile")
    assert ends == wanted and calls == ends
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
    held = torch.load(path, weights_only=True)["state_dict"]["weight"]
    assert (held != 2).sum() == 1


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [cut, flip, empty])
def test_a_damaged_last_checkpoint_is_passed_over(saved, caplog, harm):
    last = saved / "last.ckpt"
    harm(last)
    assert damage(last)
    assert newest_checkpoint(saved) == (saved / "last.previous.ckpt", 1)
    with caplog.at_level(logging.WARNING):
        assert SafeCheckpointIO().load_checkpoint(str(last))["global_step"] == 1
    (said,) = caplog.messages
    assert "last.ckpt cannot be read" in said and "goes on from" in said
    # It does not take the place of the good one.
    SafeCheckpointIO().save_checkpoint(content(3), str(last))
    assert step_of(last) == 3 and step_of(saved / "last.previous.ckpt") == 1


def test_two_damaged_checkpoints_are_refused(saved):
    cut(saved / "last.ckpt")
    cut(saved / "last.previous.ckpt")
    with pytest.raises(CheckpointError, match="nor can.*resume_from_ckpt=false"):
        SafeCheckpointIO().load_checkpoint(str(saved / "last.ckpt"))
    with pytest.raises(CheckpointError, match="Name another checkpoint"):
        SafeCheckpointIO().load_checkpoint(str(saved / "last.previous.ckpt"))
    assert newest_checkpoint(saved) == (None, 0)


def test_a_full_disk_is_said_in_a_sentence(saved):
    """A limit on the size of files stands in for it: the system refuses the write."""
    held = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, held[1]))
    try:
        with pytest.raises(CheckpointError) as error:
            SafeCheckpointIO().save_checkpoint(content(3), str(saved / "last.ckpt"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, held)
    said = str(error.value)
    assert f"checkpointing.save_dir={saved.parent} " in said
    assert "File too large" in said and said.endswith("as it was.")
    assert names(saved) == ["last.ckpt", "last.previous.ckpt"]
    assert step_of(saved / "last.ckpt") == 2


def test_a_folder_that_takes_no_file(tmp_path):
    (tmp_path / "file").touch()
    path = str(tmp_path / "file" / "checkpoints" / "last.ckpt")
    with pytest.raises(CheckpointError, match="takes no checkpoint"):
        SafeCheckpointIO().save_checkpoint(content(1), path)


def test_files_that_a_user_chose_are_left_to_him():
    class Strategy:
        checkpoint_io = TorchCheckpointIO()

    class Mine(TorchCheckpointIO):
        pass

    strategy = Strategy()
    checkpoints.use_safe_files(strategy)
    assert isinstance(strategy.checkpoint_io, SafeCheckpointIO)
    strategy.checkpoint_io = mine = Mine()
    checkpoints.use_safe_files(strategy)
    assert strategy.checkpoint_io is mine


def test_a_run_goes_on_from_the_checkpoint_before(compose, tmp_path, caplog):
    def config(*more):
        return compose(
            "algo=mcd",
            "algo.init_from=scratch",
            "algo.rounds=1",
            "algo.steps_per_round=6",
            "trainer.max_steps=6",
            "algo.delta0=1/16",
            "callbacks.checkpoint_every_n_steps.every_n_train_steps=2",
            *more,
        )

    whole, _ = fit(config(f"checkpointing.save_dir={tmp_path / 'whole'}"))
    folder = tmp_path / "whole" / "checkpoints"
    assert step_of_run(folder / "last.ckpt") == 6
    assert step_of_run(folder / "last.previous.ckpt") == 4
    cut(folder / "last.ckpt")
    with caplog.at_level(logging.WARNING):
        again, trainer = fit(config(), ckpt_path=str(folder / "last.ckpt"))
    assert "last.previous.ckpt, the one before it" in caplog.text
    assert trainer.global_step == 6
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def step_of_run(path):
    return torch.load(path, weights_only=True)["global_step"]


@pytest.fixture
def moved(tmp_path, monkeypatch):
    """The launch folder, after Hydra has moved to the run's own, as hosts let it."""
    for name in ("launch", "moved"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "moved")
    launch = tmp_path / "launch"
    monkeypatch.setattr(validate_run, "to_absolute_path", lambda x: f"{launch}/{x}")
    return launch


ONE = (
    "algo=mcd",
    "algo.init_from=scratch",
    "algo.rounds=1",
    "algo.steps_per_round=1",
    "trainer.max_steps=1",
)


@pytest.mark.parametrize(
    "name, words",
    [
        ("lost.ckpt", "name one that is, or begin anew with"),
        ("here.ckpt", "so name {launch}/here.ckpt, or begin anew with"),
        ("{moved}/checkpoints/last.ckpt", None),  # its own, when it begins
    ],
)
def test_a_checkpoint_to_go_on_from_that_is_not_there(compose, moved, name, words):
    """A host has begun anew by the time that it makes our model."""
    (moved / "here.ckpt").touch()
    name = name.format(moved=os.getcwd())
    where = f"checkpointing.resume_ckpt_path={name}"
    config = compose(*ONE, where, f"checkpointing.save_dir={os.getcwd()}")
    if words:
        words = words.format(launch=moved)
        with pytest.raises(ConfigError, match=f"path={name} is not there: .*{words}"):
            fit(config)
        config.checkpointing.resume_from_ckpt = False
    fit(config)


def test_a_checkpoint_to_evaluate_is_found_from_the_launch_folder(compose, moved):
    fit(compose(*ONE, f"checkpointing.save_dir={moved}"))
    config = compose(*ONE, "mode=sample_eval")
    cls, tokenizer = minihost.model_class(config), dataloader.get_tokenizer(config)
    path = next((moved / "checkpoints").glob("*.ckpt")).relative_to(moved)
    assert cls.load_from_checkpoint(str(path), config=config, tokenizer=tokenizer)
    with pytest.raises(CheckpointError, match="eval.checkpoint_path=no is no file"):
        cls.load_from_checkpoint("no", config=config, tokenizer=tokenizer)
