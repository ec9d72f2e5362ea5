"""The minihost's command, called in this process from a folder of its own."""

import contextlib
import io
import sys
from pathlib import Path
from unittest import mock

import pytest
from hydra.core.global_hydra import GlobalHydra

from mdlm_mcd.minihost import main as minihost


@pytest.fixture
def host(compose, tmp_path, monkeypatch):
    """`host(*overrides)`: status and output of the command, given in `launch`."""
    (tmp_path / "launch").mkdir()
    monkeypatch.chdir(tmp_path / "launch")
    monkeypatch.syspath_prepend(Path(__file__).parent)
    quiet = ("hydra/job_logging=none", "hydra/hydra_logging=none")
    tiny = [o for o in compose.tiny if not o.startswith("checkpointing.save_dir")]

    def run(*overrides, tiny=tiny, encoding="utf-8"):
        GlobalHydra.instance().clear()
        said, status = io.TextIOWrapper(io.BytesIO(), encoding), 0
        options = [o for o in overrides if o.startswith("-")]  # argparse's, so first
        overrides = [o for o in overrides if not o.startswith("-")]
        argv = ["main.py", *options, *tiny, *quiet, "trainer.max_steps=2", *overrides]
        with (
            mock.patch.object(sys, "argv", argv),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            try:
                minihost.main()
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 1
                print(end.code)
        said.flush()
        return status, said.buffer.getvalue().decode(encoding)

    run.folder, run.tiny = tmp_path / "launch", tiny
    return run
