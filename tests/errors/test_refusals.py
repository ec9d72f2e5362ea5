"""What is refused before work is lost: typos, batches, folders, lengths, the Hub."""

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
import transformers
from commands import SHORT
from omegaconf import OmegaConf

from mdlm_mcd.checkpoints.weights import Weights
from mdlm_mcd.commands import doctor
from mdlm_mcd.distillers import validate_run
from mdlm_mcd.distillers.rng import check_schedule
from mdlm_mcd.errors import CheckpointError, ConfigError
from mdlm_mcd.hosts import patches, refusals
from mdlm_mcd.hosts.specs import DUO
from mdlm_mcd.minihost import dataloader, metrics
from mdlm_mcd.minihost import main as minihost

# Typos --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "override, words",
    [
        ("algo.losss=ce", "did you mean algo.loss?"),
        ("algo.steps_perround=1", "did you mean algo.steps_per_round?"),
        ("loader.globl_batch_size=8", "did you mean loader.global_batch_size?"),
        ("sampling.u_lwa=iid", "did you mean sampling.u_law?"),
        ("lr=1", "did you mean optim.lr?"),
        ("colour=red", "a new one takes a plus, +colour=red"),
        ("algo=mdc", "algo=mdc is unknown: did you mean algo=mcd? Choose one of ar,"),
        ("+recipe=mcd_labtop", "did you mean recipe=mcd_laptop?"),
        ("algo.loss=[a", "no viable alternative"),
        ("~algo.losss", "Could not delete from config"),
        # These pass Hydra.
        ("+algo.losss=ce", "neither by algo=mcd nor by the host: did you mean algo.lo"),
        ("+algo.wholly=new", "nor by the host: take it out"),
        ("+algo.teacher_steps=2", "algo.teacher_steps=2 is read neither"),  # SDTT's
        ("+sampling.u_lwa=iid", "sampling.u_lwa is a key that nothing reads: did you"),
    ],
)
def test_typos(shell, override, words):
    status, said = shell.mcd(override)
    assert status == 1 and words in said and "Traceback" not in said, said


def test_the_right_one_of_two_typos(shell):
    _, said = shell.mcd("algo.losss=ce", "optim.lrr=1")
    assert "algo.losss=ce names no key of the config: did you mean algo.loss?" in said


def test_tracebacks_for_who_wants_them(shell, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(Exception, match="Could not override 'algo.losss'"):
        shell.mcd("algo.losss=ce")


def test_the_environment_is_as_it_was(shell, monkeypatch):
    """For the processes that a run starts, and for the next run."""
    import os

    seen = []
    monkeypatch.setattr(minihost, "run", lambda c: seen.append(dict(os.environ)))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    assert shell.mcd()[0] == 0
    assert "HYDRA_FULL_ERROR" not in {**seen[0], **os.environ}


def test_a_bug_keeps_its_traceback(shell, monkeypatch):
    monkeypatch.setattr(minihost, "run", lambda config: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        shell.mcd()


def test_a_folder_for_the_run_that_cannot_be_made(shell):
    status, said = shell.mcd(f"hydra.run.dir={shell.write('file')}/run")
    assert status == 1 and "hydra.run.dir, or" in said and "Traceback" not in said


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
        ("recipe/x.yaml", "optim: {lr: 1}\n", ["+recipe=x"], "recipe=x changes nothing"),
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


def test_every_host_key_of_ours_is_known(shell):
    """All algos of ours compose and are accepted as they are."""
    for algo in ("mcd", "sdtt", "cd4lm", "dcd"):
        status, said = shell.mcd(f"algo={algo}", "algo.rounds=0")
        assert status == 1 and "algo.rounds=0 must be a whole number" in said


# Before the first step ----------------------------------------------------------------


@pytest.mark.parametrize(
    "wanted, each, processes, micros, words",
    [
        (8, 2, 2, 2, None),
        (2, 1, 4, 1, "less than a row for each of 4 processes"),
        (10, 3, 4, 1, "makes 12; set loader.global_batch_size=12"),
        (8, 3, 1, 3, "loader.batch_size=3 on 1 process(es), accumulated 3 time(s)"),
    ],
)
def test_batches(wanted, each, processes, micros, words):
    loader = OmegaConf.create({"global_batch_size": wanted, "batch_size": each})
    if words is None:
        return validate_run.check_batch(loader, processes, micros)
    with pytest.raises(ConfigError) as error:
        validate_run.check_batch(loader, processes, micros)
    assert words in str(error.value)


def test_room_for_three_checkpoints(tmp_path, monkeypatch):
    usage = SimpleNamespace(free=3 * 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    validate_run.check_folder(str(tmp_path / "new"), 1000)
    with pytest.raises(ConfigError, match="has 0.00 GiB left, and 3 more checkpoints"):
        validate_run.check_folder(str(tmp_path), 1001)
    validate_run.check_folder("s3://bucket/run", 1001)


def test_a_run_that_goes_on_has_some_of_its_checkpoints(tmp_path, monkeypatch):
    usage = SimpleNamespace(free=1500)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    held = tmp_path / "checkpoints"
    held.mkdir()
    with pytest.raises(ConfigError, match="and 3 more checkpoints"):
        validate_run.check_folder(str(tmp_path), 1000)
    (held / "last.ckpt").touch()
    (held / "last.previous.ckpt").hardlink_to(held / "last.ckpt")
    with pytest.raises(ConfigError, match="and 2 more checkpoints"):
        validate_run.check_folder(str(tmp_path), 1000)
    (held / "last.previous.ckpt").unlink()
    (held / "last.previous.ckpt").touch()
    validate_run.check_folder(str(tmp_path), 1000)


def test_the_estimate_is_of_the_right_size(shell):
    """Five copies of the weights: what a run of one step leaves on the disk."""
    assert shell.from_teacher(shell.teacher)[0] == 0
    path = shell.folder / "checkpoints" / "last.ckpt"
    held = torch.load(path, weights_only=True)["state_dict"]
    size = sum(x.numel() * x.element_size() for x in held.values())
    assert path.stat().st_size == pytest.approx(validate_run.COPIES * size, rel=0.2)


def test_a_folder_that_is_none_costs_no_training(shell):
    """Neither of a teacher, nor of samples, nor of a sweep."""
    file = shell.write("file")
    for status, said in (
        shell.host(f"checkpointing.save_dir={file}/x"),
        shell.host(
            "mode=sample_eval",
            f"eval.checkpoint_path={shell.teacher}",
            f"eval.generated_samples_path={file}/x.json",
        ),
        shell.sweep("--out", f"{file}/r.jsonl"),
        shell.sweep("--out", file.parent),
    ):
        assert status == 1 and "Traceback" not in said
        assert "cannot be" in said, said


@pytest.mark.parametrize("why", [errno.EROFS, errno.EACCES])
def test_a_folder_that_may_not_be_written_costs_no_training(shell, monkeypatch, why):
    """A disk mounted for reading, or another user's folder: root writes to that too,
    so that what the system says is put in its mouth."""
    folder = shell.folder / "theirs"
    real = tempfile.TemporaryFile

    def refused(*args, dir=None, **kwargs):
        if dir is None or not Path(dir).is_relative_to(folder):
            return real(*args, dir=dir, **kwargs)
        raise OSError(why, os.strerror(why), str(dir))

    def begun(*args, **kwargs):
        raise AssertionError("the data is read, or the model built")

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    monkeypatch.setattr(dataloader, "get_dataloaders", begun)
    monkeypatch.setattr(L.Trainer, "fit", begun)
    save_dir = f"checkpointing.save_dir={folder}"
    for status, said in (shell.mcd(save_dir), shell.host(save_dir)):
        assert status == 1 and "Traceback" not in said
        assert said == (
            f"ConfigError: checkpointing.save_dir={folder} cannot be written "
            f"({os.strerror(why)}: {folder}/checkpoints): name a place that can."
        )
    assert list((folder / "checkpoints").iterdir()) == []


def test_lengths(caplog):
    weights = Weights({}, config={"model": {"length": 16}})
    validate_run.check_length(weights, "algo.teacher_path=t", 16)
    validate_run.check_length(Weights({}), "algo.teacher_path=t", 16)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        validate_run.check_length(weights, "algo.teacher_path=t", 8)
    assert "rows of 16 tokens, and this run has model.length=8" in caplog.text
    with pytest.raises(CheckpointError, match="set model.length=16, or train the"):
        validate_run.check_length(weights, "algo.teacher_path=t", 17)


def test_a_schedule_that_does_not_reach_its_ends(shell):
    status, said = shell.mcd("noise.eps=2")
    assert status == 1 and "noise.type=log-linear keeps a token visible" in said


@pytest.mark.parametrize("bump", [0.05, 0.0, math.nan])
def test_a_schedule_that_turns_back(bump):
    """With good ends: up again, flat, or nowhere between two of its times."""

    def alpha(t):
        inside = (t >= 0.5) & (t < 0.51)
        flat = torch.where(inside, 1 - t + 1 / 64 + bump, 1 - t)
        return flat

    check_schedule(lambda t: 1 - t, "linear", "mcd")
    with pytest.raises(ConfigError, match="at t=0.484 and .* at t=0.5, but algo=mcd"):
        check_schedule(alpha, "linear", "mcd")


def test_an_evaluator_that_is_no_file(shell):
    silent = shell.changed(lambda held: held.pop("hyper_parameters"), shell.judge)
    for path, words in (
        ("none.ckpt", "is no file"),
        (shell.write("x.ckpt", "text"), "cannot be read"),
        (silent, "holds a config that cannot be used"),
    ):
        status, said = shell.sweep("--evaluator", path)
        assert status == 1 and words in said and "Traceback" not in said, said


# The Hub ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, words",
    [
        (
            ["data.tokenizer_name_or_path=nobody/nothing"],
            "data.tokenizer_name_or_path=nobody/nothing cannot be loaded (",
        ),
        (
            [
                "mode=sample_eval",
                "eval.checkpoint_path={teacher}",
                "eval.compute_generative_perplexity=true",
                "eval.gen_ppl_eval_model_name_or_path=nobody/nothing",
            ],
            "eval.gen_ppl_eval_model_name_or_path=nobody/nothing cannot be loaded (",
        ),
    ],
)
def test_unreachable_in_the_embedded_host(shell, given, words):
    status, said = shell.host(*(text.format(teacher=shell.teacher) for text in given))
    assert status == 1 and words in said and "check the network" in said
    assert "Traceback" not in said


def test_the_evaluator_is_looked_for_before_samples_are_drawn(shell, monkeypatch):
    monkeypatch.setattr(
        minihost.algo.MDLM, "generate_samples", lambda *args, **kw: pytest.fail("drew")
    )
    with pytest.raises(ConfigError, match="nobody/nothing cannot be loaded"):
        metrics.Metrics("nobody/nothing").load_evaluator()
    status, said = shell.host(
        "mode=sample_eval",
        f"eval.checkpoint_path={shell.teacher}",
        "eval.compute_generative_perplexity=true",
        "eval.gen_ppl_eval_model_name_or_path=nobody/nothing",
    )
    assert status == 1 and "nobody/nothing cannot be loaded" in said


def test_unreachable_for_a_host_that_does_not_look(shell):
    """As the real ones: what transformers raises goes through their main.py."""
    with pytest.raises(OSError) as error:
        transformers.AutoTokenizer.from_pretrained("nobody/nothing")
    said = refusals.explain(error.value, [], ".")
    assert said.startswith("mdlm-mcd: the host asked the Hugging Face Hub for")
    assert "\n" not in said and "check the network" in said
    assert refusals.explain(OSError("no such file"), [], ".") is None
    assert refusals.explain(KeyError("x"), [], ".") is None
    wrapped = RuntimeError("data")
    wrapped.__cause__ = error.value
    assert "Hugging Face Hub" in refusals.explain(wrapped, [], ".")


def test_short_is_a_whole_run(shell):
    """Else the refusals above would be of something else."""
    assert shell.mcd()[0] == 0 and SHORT[0] == "algo=mcd"


# A disk that fills up -----------------------------------------------------------------


@pytest.fixture
def small_disk():
    """Limits the size of any file, as far as this system can."""
    resource = pytest.importorskip("resource")
    import contextlib
    import signal

    @contextlib.contextmanager
    def limit(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, old)

    return limit


DISKS = {
    "a run of ours": (60_000, lambda s: s.mcd(), "takes no checkpoint (File too"),
    "a run of the host": (60_000, lambda s: s.host("trainer.max_steps=1"), None),
    "before the run": (10, lambda s: s.host("trainer.max_steps=1"), None),
    "export": (
        60_000,
        lambda s: s.command("export", s.teacher, s.folder / "o"),
        "o cannot be written (",
    ),
    "sweep": (100, lambda s: s.sweep(), None),
    "demo": (10, lambda s: s.command("demo", "--out", s.folder / "d", "--quick"), None),
}


@pytest.mark.parametrize("what", DISKS)
def test_a_disk_that_takes_no_more(shell, small_disk, what):
    size, call, words = DISKS[what]
    with small_disk(size):
        status, said = call(shell)
    assert status == 1 and "Traceback" not in said, said
    assert (words or "The disk takes no more") in said
