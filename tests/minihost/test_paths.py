"""Paths are relative to the folder the run is launched from, in every key and mode."""

import os

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from mdlm_mcd.checkpoints.files import found_resume_path
from mdlm_mcd.errors import CheckpointError, ConfigError
from mdlm_mcd.minihost import corpus, paths
from mdlm_mcd.minihost import main as minihost

NAMED = (  # keys whose value may be another thing than a path
    "data.train data.valid data.tokenizer_name_or_path eval.gen_ppl_eval_model_name_or_path "
    "eval.checkpoint_path algo.teacher_path training.finetune_path"
).split()
PATHS = (
    "data.cache_dir eval.generated_samples_path checkpointing.save_dir "
    "checkpointing.resume_ckpt_path callbacks.checkpoint_monitor.dirpath logger.save_dir "
    "trainer.default_root_dir trainer.profiler.dirpath"
).split()


@pytest.fixture
def launched(tmp_path, monkeypatch):
    """The launch folder; the process has moved to the run's, as Hydra moves it."""
    folder, moved = tmp_path / "launch", tmp_path / "moved"
    folder.mkdir()
    moved.mkdir()
    for name in ("thing", "a.jsonl", "one.txt"):
        (folder / name).touch()
    monkeypatch.chdir(moved)
    monkeypatch.setenv("HOME", str(folder))
    HydraConfig.instance().cfg = OmegaConf.create({"hydra": {"runtime": {"cwd": str(folder)}}})
    return folder


@pytest.fixture
def absolute(compose, launched):
    """`absolute({key: value})`: the values of these keys, and of others, in a config."""

    def build(given, *keys):
        config = compose()
        for key, value in given.items():
            OmegaConf.update(config, key, value, force_add=True)
        paths.make_absolute(config)
        return [OmegaConf.select(config, key) for key in (*given, *keys)]

    return build


def test_each_key(absolute, launched):
    """Places that are not on this machine's disk are the business of others."""
    keys, at = (*NAMED, *PATHS), f"{launched}/thing"
    for value, path in (("thing", at), ("~/thing", at), (at, at), ("s3://a/b", "s3://a/b")):
        assert absolute(dict.fromkeys(keys, value)) == [path] * len(keys)


def test_names_and_words_are_no_paths(absolute, launched):
    """Of the Hub, where there is no such file here; of ours, although there is one."""
    (launched / "bpe").mkdir()
    keys = ("data.train", "data.tokenizer_name_or_path")
    for names, value in ((NAMED, "owner/name"), (NAMED, "gpt2"), (keys, "bpe")):
        assert set(absolute(dict.fromkeys(names, value))) == {value}


def test_lists_mappings_and_what_is_built_on_a_path(absolute, launched):
    at, files = str(launched), {"train": ["a.jsonl"], "validation": "en/*.jsonl"}
    given = {
        "data.files": ["one.txt", "~/b*.txt", "/c.txt"],
        "data.valid_files": "one.txt",
        "data.data_files": files,  # one of a dataset on the Hub
        "checkpointing.save_dir": "run",
    }
    monitor, resume = "callbacks.checkpoint_monitor.dirpath", "checkpointing.resume_ckpt_path"
    assert absolute(given, monitor, resume) == [
        [f"{at}/one.txt", f"{at}/b*.txt", "/c.txt"],
        f"{at}/one.txt",
        files | {"train": [f"{at}/a.jsonl"]},
        f"{at}/run",
        f"{at}/run/checkpoints",
        f"{at}/run/checkpoints/last.ckpt",
    ]


def test_a_launch_folder_with_brackets(absolute, launched):
    folder = launched / "[x] y"
    folder.mkdir()
    (folder / "one.txt").touch()
    HydraConfig.instance().cfg.hydra.runtime.cwd = str(folder)
    (files,) = absolute({"data.files": ["*.txt"]})
    assert corpus._expand("files", files) == [str(folder / "one.txt")]


# Checkpoints that are not there ---------------------------------------------------------


def test_a_named_checkpoint_that_is_not_there(compose, monkeypatch):
    """Never a fresh start, and before the text is read."""
    monkeypatch.setattr(minihost.dataloader, "get_dataloaders", lambda *a, **k: pytest.fail("read"))
    for key, mode in (
        ("checkpointing.resume_ckpt_path", "train"),
        ("training.finetune_path", "train"),
        ("eval.checkpoint_path", "ppl_eval"),
    ):
        with pytest.raises((ConfigError, CheckpointError), match="gone.ckpt is no"):
            minihost.run(compose(f"mode={mode}", f"{key}=gone.ckpt"))


def test_a_run_on_another_file_system(compose, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)  # Lightning's callbacks take this protocol for a folder here
    caplog.set_level("INFO", "lightning.pytorch.utilities.rank_zero")
    far = f"checkpointing.save_dir=file://{tmp_path}/far"
    minihost.run(compose(far, "trainer.max_steps=1"))
    minihost.run(compose(far, "trainer.max_steps=2"))
    assert "Restored all states" in caplog.text


def test_a_checkpoint_that_is_not_there_yet(compose, tmp_path):
    """A job that may be requeued names its own from its first start on."""
    own = [f"{tmp_path}/{x}checkpoints/last.ckpt" for x in ("", "x/../")]
    for path, resume in ((own[0], True), (own[1], True), ("gone", False)):
        path = f"checkpointing.resume_ckpt_path={path}"
        config = compose(path, f"checkpointing.resume_from_ckpt={resume}")
        assert found_resume_path(config, os.path.exists) is None
