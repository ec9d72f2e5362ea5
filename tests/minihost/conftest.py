"""The minihost's command, called in this process from a folder of its own."""

from pathlib import Path

import pytest
import shell

from mdlm_mcd.minihost import main as minihost


@pytest.fixture
def host(compose, tmp_path, monkeypatch):
    """`host(*overrides)`: status and output of the command, given in `launch`."""
    (tmp_path / "launch").mkdir()
    monkeypatch.chdir(tmp_path / "launch")
    monkeypatch.syspath_prepend(Path(__file__).parent)
    tiny = [o for o in compose.tiny if not o.startswith("checkpointing.save_dir")]

    def run(*overrides, tiny=tiny, encoding="utf-8"):
        argv = ["main.py", *tiny, *shell.QUIET, "trainer.max_steps=2", *overrides]
        return shell.call(minihost.main, argv, encoding)

    run.folder, run.tiny = tmp_path / "launch", tiny
    return run
