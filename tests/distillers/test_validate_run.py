"""What is refused before a distillation loses work: batches, folders, lengths, teachers."""

import errno
import logging
import math
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import fakes
import lightning as L
import pytest
import torch
from omegaconf import OmegaConf

from mdlm_mcd.checkpoints.weights import Weights
from mdlm_mcd.commands import doctor
from mdlm_mcd.distillers import settings, start, validate_run
from mdlm_mcd.errors import CheckpointError, ConfigError
from mdlm_mcd.hosts import patches, sampling
from mdlm_mcd.hosts.specs import DUO
from mdlm_mcd.minihost import dataloader

# Keys ---------------------------------------------------------------------------------

MINE = "# @package _global_\ndefaults: [mcd]\nalgo: {name: mine, losss: ce}\n"


@pytest.mark.parametrize(
    "file, text, given, stops",
    [
        ("algo/mine.yaml", MINE, ["algo=mine"], "algo.losss=ce is read neither"),
        ("algo/mine.yaml", MINE.replace("losss", "loss"), ["algo=mine"], None),
        # A fork's own key is in another of its files.
        ("algo/theirs.yaml", "name: theirs\nfork: 1\n", ["+algo.fork=2"], None),
        ("algo/theirs.yaml", "name: theirs\n", ["+algo.fork=2"], "algo.fork=2"),
        ("algo/x.yaml", "", ["+sampling.u_lwa=iid"], "is no key of a sampler: did you"),
        ("recipe/x.yaml", "optim: {lr: 1}\n", ["+recipe=x"], "recipe is a section that nothing"),
    ],
)
def test_keys_in_files_and_of_forks(tmp_path, file, text, given, stops):
    host = fakes.duo(tmp_path)
    patches.patch(host, DUO)
    (host / "configs/recipe").mkdir()
    (host / "configs" / file).write_text(text)
    (found,) = [f for f in doctor.examine(host, given) if f.topic == "algo"]
    assert (found.mark == doctor.STOP) == bool(stops)
    assert not stops or stops in found.text


@pytest.mark.parametrize("algo", ["mcd", "sdtt", "cd4lm", "dcd"])
def test_every_host_key_of_ours_is_known(shell, algo):
    status, said = shell.mcd(f"algo={algo}", "algo.rounds=0")
    assert status == 1 and "algo.rounds=0 must be a whole number" in said


# Before the text is read --------------------------------------------------------------


@pytest.mark.parametrize(
    "given, words",
    [
        (["+algo.losss=ce"], "did you mean algo.loss?"),
        (["algo.rounds=2"], "set trainer.max_steps=2"),
        (["algo.rounds=3", "algo.delta0=1/3", "trainer.max_steps=3"], "to delta="),
        (["algo.tau0=0"], "algo.tau0=0"),
        (["algo.loss=nope"], "algo.loss=nope is unknown to algo=mcd"),
        (["algo.delta0=null"], "algo.delta0=None must be a finite number"),
        (["algo.min_entropy=[1]"], "algo.min_entropy=[1] is no number"),
        (["algo.min_entropy=-1"], "must be a number of nats from 0 on"),
        (["algo.head_chunk=0"], "algo.head_chunk=0 must be at least 1"),
        (["algo.u_step=1/8"], "u_law=iid"),
        (["algo.snapshot=ema", "training.ema=0"], "algo.snapshot=ema takes"),
        (["algo.parameterization=mean"], "does not fit algo=mcd, which needs"),
        (["algo.teacher_placement=sharded"], "algo.teacher_placement=sharded"),
        (["+trainer.fast_dev_run=true"], "trainer.fast_dev_run=True ends a run after its first"),
        (["loader.batch_size=3"], "is not what a step would see"),
        (["trainer.devices=9"], "a row for each of 9 processes"),
        (["noise.eps=2"], "noise.type=log-linear keeps a token visible"),
        (["algo.init_from=ema"], "algo.teacher_path is empty"),
        (["algo.init_from=ema", "algo.teacher_path=none.ckpt"], "is no file: name a"),
        (["algo.init_from=ema", "algo.teacher_path=5"], "teacher_path=5 is no path"),
        (["algo.init_from=ema", "algo.teacher_path=[a]"], "is no path: name one"),
        (["algo.init_from=ema", "algo.teacher_path=nobody/nothing"], "nor could it be fetched"),
        (["sampling.greedy_tail=-1"], "greedy_tail=-1 must not be negative"),
        (["sampling.u_law=lattce"], "u_law=lattce is unknown"),
        (["sampling.schedule=[1,2,3]"], "between 128 steps: give 128 positive"),
    ],
)
def test_before_the_first_step(shell, monkeypatch, given, words):
    monkeypatch.setattr(L.LightningModule, "optimizer_step", lambda *a, **k: pytest.fail("a step"))
    early = ("teacher_placement", "loader.batch_size", "noise.eps", "nobody/nothing")
    if not any(key in given[-1] for key in early):  # else known once there is a model
        monkeypatch.setattr(dataloader, "get_dataloaders", lambda *a: pytest.fail("read the text"))
    status, said = shell.mcd(*given)
    assert status == 1 and words in said and "Traceback" not in said, said


def no_average(content):
    content.pop("ema")


def diverged(content):
    content["ema"]["shadow_params"][0].fill_(float("nan"))


@pytest.mark.parametrize(
    "teacher, words",
    [
        (lambda s: s.write("x.ckpt", "text"), "cannot be read as a PyTorch checkpoint"),
        (lambda s: s.changed(no_average), "holds no EMA"),
        (lambda s: s.changed(diverged), "holds weights that are not finite"),
        (lambda s: s.with_setting("algo.parameterization", "mean"), "under parameterization="),
        (lambda s: s.with_setting("algo.time_conditioning", True), "with time_conditioning="),
    ],
)
def test_teachers(shell, teacher, words):
    status, said = shell.from_teacher(teacher(shell))
    assert status == 1 and words in said and "Traceback" not in said, said


@pytest.mark.parametrize(
    "override, words",
    [
        ("model.hidden_size=32", "does not fit this model"),
        ("model.length=20", "was trained on rows of 16 tokens"),
        ("checkpointing.resume_ckpt_path={teacher}", "so there is no distillation to resume"),
    ],
)
def test_a_run_that_does_not_fit_its_teacher(shell, override, words):
    status, said = shell.from_teacher(shell.teacher, override.format(teacher=shell.teacher))
    assert status == 1 and words in said and "Traceback" not in said, said


def test_a_teacher_that_is_gone_does_not_stop_a_resumed_run(shell):
    teacher = shutil.copy(shell.teacher, shell.folder / "teacher.ckpt")
    assert shell.from_teacher(teacher)[0] == 0
    teacher.unlink()
    status, said = shell.from_teacher(teacher)
    assert status == 0, said


@pytest.mark.parametrize(
    "key, value, warns",
    [
        ("data.vocab_size", 300, False),  # as it is
        ("data.tokenizer_name_or_path", "gpt2", True),
        ("data.files", ["elsewhere.txt"], True),
    ],
)
def test_a_teacher_of_another_tokenizer(shell, caplog, key, value, warns):
    assert shell.from_teacher(shell.with_setting(key, value))[0] == 0
    assert (f"was trained with {key}=" in caplog.text) == warns


def test_the_trial_draw_leaves_the_global_generator_alone(compose):
    before = torch.get_rng_state()
    for more in ([], ["sampling.predictor=locked", "sampling.u_law=lattice"]):
        sampling._try_options(compose("algo=mcd", *more).sampling)
    assert torch.equal(torch.get_rng_state(), before)


# Batches and processes ----------------------------------------------------------------


@pytest.mark.parametrize(
    "wanted, each, processes, micros, words",
    [
        (8, 2, 2, 2, None),
        (2, 1, 4, 1, "less than a row for each of 4 processes"),
        (10, 3, 4, 1, "makes 12; set loader.global_batch_size=12"),
        (8, 3, 1, 3, "loader.batch_size=3 on 1 process(es), accumulated 3 time(s)"),
        (8, 8, 1, 0, "accumulate_grad_batches=0 must be a whole number"),
        (8, 8, 1, True, "accumulate_grad_batches=True must be a whole number"),
    ],
)
def test_batches(wanted, each, processes, micros, words):
    loader = OmegaConf.create({"global_batch_size": wanted, "batch_size": each})
    if words is None:
        return validate_run.check_batch(loader, processes, micros)
    with pytest.raises(ConfigError) as error:
        validate_run.check_batch(loader, processes, micros)
    assert words in str(error.value)


def test_processes_are_counted_for_training_alone():
    config = {"trainer": {"devices": 9}, "loader": {"global_batch_size": 8}}
    validate_run.check_processes(OmegaConf.create({**config, "mode": "sample_eval"}))
    with pytest.raises(ConfigError, match="each of 9 processes"):
        validate_run.check_processes(OmegaConf.create(config))


@pytest.mark.parametrize("value", ["abc", "1/0", True, [1], {"a": 1}])
def test_what_is_no_number(value):
    with pytest.raises(ConfigError, match="algo.x=.* is no number"):
        settings.number(OmegaConf.create({"x": value}), "x")


# Folders ------------------------------------------------------------------------------


def test_room_for_the_checkpoints_that_are_still_to_write(tmp_path, monkeypatch):
    def check(free, size=1000, folder=tmp_path):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
        validate_run.check_folder(str(folder), size)

    check(3000, folder=tmp_path / "new")
    with pytest.raises(ConfigError, match="has 0.00 GiB left, and 3 more checkpoints"):
        check(3000, 1001)
    check(0, folder="s3://bucket/run")
    # A run that goes on has some of them; two names may be of one file.
    last, previous = (tmp_path / "checkpoints" / f"last{x}.ckpt" for x in ("", ".previous"))
    last.touch()
    previous.hardlink_to(last)
    with pytest.raises(ConfigError, match="and 2 more checkpoints"):
        check(1500)
    previous.unlink()
    previous.touch()
    check(1500)


def test_the_estimate_is_of_the_right_size(shell):
    """Five copies of the weights: what a run of one step leaves on the disk."""
    wide = ("model.hidden_size=32", "model.n_blocks=2", "algo.init_from=scratch")
    assert shell.mcd(*wide)[0] == 0
    path = shell.folder / "checkpoints" / "last.ckpt"
    weights = torch.load(path, weights_only=True)["state_dict"].values()
    size = sum(x.numel() * x.element_size() for x in weights)
    assert path.stat().st_size == pytest.approx(validate_run.COPIES * size, rel=0.2)


@pytest.mark.parametrize("why", [errno.EROFS, errno.EACCES])
def test_a_folder_that_may_not_be_written_costs_no_training(shell, monkeypatch, why):
    """A disk mounted for reading, or another user's folder; root writes to both."""
    folder = shell.folder / "theirs"
    real = tempfile.TemporaryFile

    def refused(*args, dir=None, **kwargs):
        if dir is None or not Path(dir).is_relative_to(folder):
            return real(*args, dir=dir, **kwargs)
        raise OSError(why, os.strerror(why), str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    monkeypatch.setattr(dataloader, "get_dataloaders", lambda *a: pytest.fail("read the data"))
    for call in (shell.mcd, shell.host):
        status, said = call(f"checkpointing.save_dir={folder}")
        assert status == 1 and "Traceback" not in said
        assert f"save_dir={folder} cannot be written ({os.strerror(why)}: {folder}" in said
    assert list((folder / "checkpoints").iterdir()) == []


# Lengths and schedules ----------------------------------------------------------------


def test_lengths(caplog):
    weights = Weights({}, config={"model": {"length": 16}})
    start.check_length(weights, "algo.teacher_path=t", 16)
    start.check_length(Weights({}), "algo.teacher_path=t", 16)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        start.check_length(weights, "algo.teacher_path=t", 8)
    assert "rows of 16 tokens, and this run has model.length=8" in caplog.text
    with pytest.raises(CheckpointError, match="set model.length=16, or train the"):
        start.check_length(weights, "algo.teacher_path=t", 17)


@pytest.mark.parametrize("bump", [0.05, 0.0, math.nan])
def test_a_schedule_that_turns_back(bump):
    """With good ends: up again, flat, or nowhere between two of its times."""

    def alpha(t):
        inside = (t >= 0.5) & (t < 0.51)
        return torch.where(inside, 1 - t + 1 / 64 + bump, 1 - t)

    settings.check_schedule(lambda t: 1 - t, "linear", "mcd")
    with pytest.raises(ConfigError, match="at t=0.484 and .* at t=0.5, but algo=mcd"):
        settings.check_schedule(alpha, "linear", "mcd")
