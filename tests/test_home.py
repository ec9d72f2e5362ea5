"""Without a home folder, `~` is a sentence and never a folder of that name."""

import os

import pytest

from mdlm_mcd.checkpoints import files, weights
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import candidates
from mdlm_mcd.minihost import main as minihost
from mdlm_mcd.minihost import paths


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """As in a container under a user id that no passwd file has."""
    pwd = pytest.importorskip("pwd")

    def unknown(user):
        raise KeyError(user)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not [name for name in os.listdir() if name.startswith("~")]


def test_paths(homeless, monkeypatch):
    for path in ("~", "~/x", "~nobody_at_all/x"):
        with pytest.raises(ConfigError, match=rf"^k={path}: no home folder is known"):
            files.expanded(path, "k")
    (homeless / "~x.ckpt").touch()
    for path in ("a/~/b", "a~", "~x.ckpt", str(homeless), ""):
        assert files.expanded(path, "k") == path
    (homeless / "~x.ckpt").unlink()
    monkeypatch.setenv("HOME", "/h")
    assert files.expanded("~/x", "k") == "/h/x"


@pytest.mark.parametrize("key", ["data.cache_dir", "data.tokenizer_name_or_path"])
def test_keys_of_a_run(homeless, compose, key):
    with pytest.raises(ConfigError, match=rf"^{key}=~/x: no home folder is known"):
        paths.make_absolute(compose(f"{key}='~/x'"))


def test_what_other_commands_open(homeless):
    for key, call in {
        "CKPT": lambda: candidates.open_model(candidates.Source("a", "~/a.ckpt")),
        "algo.teacher_path": lambda: weights.read_weights("~/a.ckpt"),
    }.items():
        with pytest.raises(ConfigError, match=rf"^{key}=~/.*: no home folder"):
            call()


def test_a_run_that_names_no_home(homeless, compose):
    assert minihost.run(compose("trainer.max_steps=1"))
