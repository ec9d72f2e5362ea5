"""Without a home folder, `~` is a sentence and never a folder of that name."""

import os

import pytest
import torch
from omegaconf import OmegaConf

from mdlm_mcd.checkpoints import files, weights
from mdlm_mcd.commands import doctor, export
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import candidates
from mdlm_mcd.evaluation.evaluators import CausalLM
from mdlm_mcd.minihost import main as minihost
from mdlm_mcd.minihost import metrics, paths


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """As in a container under a user id that no passwd file has."""
    pwd = pytest.importorskip("pwd")

    def unknown(user):
        raise KeyError(user)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "~/.cache/huggingface/hub")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not [name for name in os.listdir() if name.startswith("~")]


def test_paths(homeless, monkeypatch):
    for path in ("~", "~/x", "~nobody_at_all/x"):
        with pytest.raises(ConfigError, match=rf"^k={path}: no home folder .* k=/some"):
            files.expanded(path, "k")
    (homeless / "~x.ckpt").touch()
    for path in ("a/~/b", "a~", "~x.ckpt", str(homeless), ""):
        assert files.expanded(path, "k") == path
    (homeless / "~x.ckpt").unlink()
    monkeypatch.setenv("HOME", "/h")
    assert files.expanded("~/x", "k") == "/h/x"


@pytest.mark.parametrize(
    "key, value",
    [
        ("data.cache_dir", "'~/x'"),
        ("data.files", "['~/x']"),
        ("data.valid_files", "['~/x']"),
        ("data.tokenizer_name_or_path", "'~/x'"),
        ("training.finetune_path", "'~/x'"),
        ("algo.teacher_path", "'~/x'"),
    ],
)
def test_keys_of_a_run(homeless, compose, key, value):
    given = [f"{key}={value}", *(["algo=mcd"] if key == "algo.teacher_path" else [])]
    with pytest.raises(ConfigError, match=rf"^{key}=~/x: no home folder is known"):
        minihost.run(compose(*given))


@pytest.mark.parametrize("key", ["data.train", "data.data_files"])
def test_keys_of_a_dataset(homeless, compose, key):
    config = compose()
    OmegaConf.update(config, key, "~/x", force_add=True)
    with pytest.raises(ConfigError, match=rf"^{key}=~/x: no home folder is known"):
        paths.make_absolute(config)


def test_what_other_commands_open(homeless, tmp_path):
    calls = {
        "CKPT": lambda: candidates.open_model(candidates.Source("a", "~/a.ckpt")),
        "algo.teacher_path": lambda: weights.read_weights("~/a.ckpt"),
        "--tokenizer": lambda: candidates.given_tokenizer("~/t", {}),
    }
    for key, call in calls.items():
        with pytest.raises(ConfigError, match=rf"^{key}=~/.*: no home folder"):
            call()
    with pytest.raises(ConfigError, match="^CKPT=~/a.ckpt: no home folder"):
        export.export("~/a.ckpt", tmp_path / "out")


def test_the_hubs_cache(homeless, compose):
    """It would be fetched into a folder called ~."""
    calls = (
        lambda: CausalLM.load("gpt2"),
        lambda: metrics.Metrics("gpt2").load_evaluator(),
        lambda: weights.read_weights("org/name"),
        lambda: minihost.run(compose("data.tokenizer_name_or_path=gpt2")),
    )
    for call in calls:
        with pytest.raises(ConfigError, match="^HF_HOME=~/.*: no home folder is known"):
            call()


def test_the_doctor(homeless, compose):
    case = doctor.Case(homeless)
    case.config = compose("algo=mcd", "algo.teacher_path='~/a.ckpt'")
    found = doctor.finding("checkpoint", case)
    assert found.mark == doctor.STOP and "no home folder is known" in found.text


def test_a_run_that_names_no_home(homeless, compose):
    assert minihost.run(compose("trainer.max_steps=1"))
    assert torch.load(homeless / "checkpoints" / "last.ckpt", weights_only=True)
