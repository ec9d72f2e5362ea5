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
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # raises KeyError
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not [name for name in os.listdir() if name.startswith("~")]


def test_paths(homeless, monkeypatch):
    (homeless / "~x.ckpt").touch()
    for path in ("a/~/b", "a~", "~x.ckpt", str(homeless), ""):
        assert files.expanded(path, "k") == path
    (homeless / "~x.ckpt").unlink()
    monkeypatch.setenv("HOME", "/h")
    assert files.expanded("~/x", "k") == "/h/x"


@pytest.mark.parametrize(
    "key, call",
    [
        ("k", lambda c: files.expanded("~", "k")),
        ("k", lambda c: files.expanded("~nobody_at_all/x", "k")),
        ("data.cache_dir", lambda c: paths.make_absolute(c("data.cache_dir='~/x'"))),
        (
            "data.tokenizer_name_or_path",
            lambda c: paths.make_absolute(c("data.tokenizer_name_or_path='~/x'")),
        ),
        ("CKPT", lambda c: candidates.open_model(candidates.Source("a", "~/a.ckpt"))),
        ("algo.teacher_path", lambda c: weights.read_weights("~/a.ckpt")),
    ],
)
def test_a_home_that_is_not_known(homeless, compose, key, call):
    with pytest.raises(ConfigError, match=rf"^{key}=~.*: no home folder is known"):
        call(compose)


def test_a_run_that_names_no_home(homeless, compose):
    assert minihost.run(compose("trainer.max_steps=1"))
