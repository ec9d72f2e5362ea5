"""What is refused before a distillation loses work: batches, folders, lengths, teachers."""

import errno
import os
import tempfile
from pathlib import Path

import fakes
import pytest
import torch
from omegaconf import OmegaConf
from runs import built, fit, opened

from mdlm_mcd.checkpoints.weights import Weights
from mdlm_mcd.commands import doctor
from mdlm_mcd.distillers import settings, start, validate_run
from mdlm_mcd.errors import CheckpointError, ConfigError
from mdlm_mcd.hosts import patches
from mdlm_mcd.hosts.specs import DUO
from mdlm_mcd.minihost import main as minihost

ONE = ("algo.init_from=scratch", "algo.rounds=1", "algo.steps_per_round=1", "trainer.max_steps=1")

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
        ("algo/x.yaml", "", ["+sampling.u_lwa=iid"], "did you mean sampling.u_law"),
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


# Teachers -----------------------------------------------------------------------------


def no_average(content):
    content.pop("ema")


def diverged(content):
    content["ema"]["shadow_params"][0].fill_(float("nan"))


def of_algo(**settings):
    return lambda content: content["hyper_parameters"]["config"]["algo"].update(settings)


def short(content):
    content["hyper_parameters"]["config"]["model"]["length"] = 8


@pytest.mark.parametrize(
    "change, words",
    [
        (None, "cannot be read as a PyTorch checkpoint"),
        (no_average, "holds no EMA"),
        (short, "was trained on rows of 8 tokens.*set model.length=8, or train the"),
        (diverged, "holds weights that are not finite"),
        (of_algo(parameterization="mean"), "under parameterization="),
        (of_algo(time_conditioning=True), "with time_conditioning=.*set algo.time_cond"),
    ],
)
def test_teachers(config, teacher_path, tmp_path, change, words):
    path = tmp_path / "x.ckpt"
    path.write_text("text")
    if change:
        content = opened(teacher_path)
        change(content)
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=words):
        minihost.run(config(f"algo.teacher_path={path}"))


def test_a_teacher_of_another_tokenizer(caplog):
    data = {"tokenizer_name_or_path": "bpe", "vocab_size": 300, "files": ["a.txt"]}
    weights = Weights({}, config={"data": data})
    for given in (weights, Weights({})):
        start.check_tokenizer(given, "t", OmegaConf.create(data))
    assert not caplog.records
    for key, value in (("tokenizer_name_or_path", "gpt2"), ("files", ["b.txt"])):
        start.check_tokenizer(weights, "t", OmegaConf.create(data | {key: value}))
        assert f"t was trained with data.{key}=" in caplog.text


@pytest.mark.parametrize("bump", [0.05, 0.0, float("nan")])
def test_a_schedule_that_turns_back(bump):
    """With good ends: up again, flat, or nowhere between two of its times."""

    def alpha(t):
        inside = (t >= 0.5) & (t < 0.51)
        return torch.where(inside, 1 - t + 1 / 64 + bump, 1 - t)

    settings.check_schedule(lambda t: 1 - t, "linear", "mcd")
    with pytest.raises(ConfigError, match="algo=mcd needs it to fall .* without a rise"):
        settings.check_schedule(alpha, "linear", "mcd")


# Batches and folders ------------------------------------------------------------------


@pytest.mark.parametrize(
    "wanted, each, processes, micros, words",
    [
        (8, 2, 2, 2, None),
        (2, 1, 4, 1, "makes 4; set loader.global_batch_size=4"),
        (10, 3, 4, 1, "makes 12; set loader.global_batch_size=12"),
        (0, 8, 1, 0, "is not what a step would see"),
    ],
)
def test_batches(wanted, each, processes, micros, words):
    loader = OmegaConf.create({"global_batch_size": wanted, "batch_size": each})
    if words is None:
        return validate_run.check_batch(loader, processes, micros)
    with pytest.raises(ConfigError, match=words):
        validate_run.check_batch(loader, processes, micros)


@pytest.mark.parametrize(
    "given, words",
    [
        ("loader.batch_size=3", "is not what a step would see"),
        ("noise.eps=2", "noise.type=log-linear keeps a token visible"),
    ],
)
def test_steps_and_schedules_of_a_run(config, given, words):
    with pytest.raises(ConfigError, match=words):
        minihost.run(config(given))


def test_a_folder_that_may_not_be_written(config, tmp_path, monkeypatch):
    """A disk mounted for reading; root writes to another user's folder."""

    def refused(*args, dir=None, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    with pytest.raises(ConfigError, match=f"save_dir={tmp_path} cannot be written"):
        fit(config())


@pytest.fixture
def moved(tmp_path, monkeypatch):
    """The launch folder, after Hydra has moved to the run's own, as hosts let it."""
    for name in ("launch", "moved"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "moved")
    launch = tmp_path / "launch"
    monkeypatch.setattr(validate_run, "to_absolute_path", lambda x: f"{launch}/{x}")
    return launch


def test_a_checkpoint_to_go_on_from_that_is_not_there(config, moved):
    """A host has begun anew by the time that it makes our model."""
    own = f"{os.getcwd()}/checkpoints/last.ckpt"  # is not there, either, when it begins
    for name in ("lost.ckpt", own):
        where = f"checkpointing.resume_ckpt_path={name}"
        given = config(*ONE, where, f"checkpointing.save_dir={os.getcwd()}")
        if name != own:
            with pytest.raises(ConfigError, match=f"path={name} is not there .*begin anew"):
                fit(given)
            given.checkpointing.resume_from_ckpt = False
        fit(given)


def test_a_checkpoint_to_evaluate_is_found_from_the_launch_folder(config, moved):
    fit(config(*ONE, f"checkpointing.save_dir={moved}"))
    given = config(*ONE, "mode=sample_eval")
    cls, how = minihost.model_class(given), {"config": given, "tokenizer": built(given).tokenizer}
    path = Path("checkpoints") / "round-1.ckpt"
    assert cls.load_from_checkpoint(str(path), **how)
    with pytest.raises(CheckpointError, match="eval.checkpoint_path=no is no file"):
        cls.load_from_checkpoint("no", **how)
