"""Arguments, tracebacks on request, text of any kind on any terminal."""

import os
import sys

import pytest

from mdlm_mcd.commands import main
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.minihost import main as minihost
from mdlm_mcd.settings import console


def test_control_characters_of_a_file_are_escaped(shell):
    shell.write("mine/recipe/r.yaml", '# @package _global_\nmode: "tra\\rin\\e[31m"\n')
    status, printed = shell.host(f"--config-dir={shell.folder}/mine", "+recipe=r")
    assert status == 1 and r"mode=tra\rin\x1b[31m is unknown" in printed


def test_tracebacks_on_request(shell, monkeypatch, capsys):
    assert main.main(["patch", "nowhere"]) == 1 and "mdlm-mcd: " in capsys.readouterr().err
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ConfigError):
        main.main(["patch", "nowhere"])
    with pytest.raises(Exception, match="Could not override 'algo.losss'"):
        shell.mcd("algo.losss=ce")


def test_a_bug_keeps_its_traceback(shell, monkeypatch):
    monkeypatch.setattr(minihost, "run", lambda config: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        shell.mcd()


@pytest.mark.parametrize("wish", [None, "0", "1"])
def test_the_users_wish_outlives_what_hydra_is_given(monkeypatch, wish):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    if wish:
        monkeypatch.setenv("HYDRA_FULL_ERROR", wish)
    before = dict(os.environ)
    with console.hydra_raises(), console.hydra_raises():  # as a child process inherits it
        assert os.environ["HYDRA_FULL_ERROR"] == "1"
        assert console.wants_traceback() == (wish == "1")
    assert os.environ == before


def test_streams_that_cannot_be_changed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", object())
    console.write_any_text()
