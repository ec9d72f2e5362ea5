"""The minihost's command: what it prints, paths from the launch folder, how jobs end."""

import os
import subprocess
import sys

import lightning as L
import pytest
import shell

from mdlm_mcd.minihost import main as minihost

MCD = ("-m", *shell.SHORT, "algo.delta0=1/2", "hydra.sweep.dir=s")


class Bug(L.Callback):
    """A callback with a bug."""

    def __init__(self, on=True):
        self.on = on

    def on_train_start(self, trainer, module):
        if self.on:
            raise ArithmeticError("a bug")


@pytest.fixture
def host(compose, tmp_path, monkeypatch):
    """`host(*overrides)`: status and output of the command, given in `launch`."""
    (tmp_path / "launch").mkdir()
    monkeypatch.chdir(tmp_path / "launch")
    tiny = [o for o in compose.tiny if not o.startswith("checkpointing.save_dir")]

    def run(*overrides, tiny=tiny, encoding="utf-8"):
        argv = ["main.py", *tiny, *shell.QUIET, "trainer.max_steps=2", *overrides]
        return shell.call(minihost.main, argv, encoding)

    run.folder, run.tiny = tmp_path / "launch", tiny
    return run


@pytest.mark.parametrize("callbacks, bar", [("lines", False), ("lines,progress", True)])
def test_lines_replace_the_bar(host, caplog, callbacks, bar):
    """Also in a terminal that is not UTF-8, with Lightning's table of the model."""
    tiny = [o for o in host.tiny if "progress" not in o and "summary" not in o]
    how = (f"callbacks=[{callbacks}]", "callbacks.lines.every=1", *["~logger"] * (not bar))
    how += ("+callbacks.none=null",)
    status, printed = host(*how, tiny=tiny, encoding="ascii")
    assert status == 0 and ("Epoch 0" in printed) == bar, printed
    assert "step 2/2 trainer/loss=" in printed
    assert "backbone" in printed + caplog.text  # Lightning 2.2 logs its table
    status, printed = host("mode=tr\u00e4in", encoding="ascii")
    assert status == 1 and "ConfigError: " in printed and "mode=tr\\xe4in" in printed


def test_a_run_and_what_goes_on_from_it(host, caplog):
    caplog.set_level("INFO", "lightning.pytorch.utilities.rank_zero")
    assert host("hydra.run.dir=a", "checkpointing.save_dir=one")[0] == 0
    at, resume = host.folder, "checkpointing.resume_ckpt_path=one/checkpoints/last.ckpt"
    assert not (at / "a/one").exists() and (at / "one/lightning_logs").is_dir()
    status, printed = host("hydra.run.dir=b", "trainer.max_steps=3", resume)
    assert status == 0 and "Restored all states" in caplog.text, printed


# Multiruns ----------------------------------------------------------------------------


def ended(folder):
    return sorted(p.parts[-3] for p in folder.glob("s/*/checkpoints/round-1.ckpt"))


def test_a_job_fails_alone(host):
    """One that is refused, one with a bug, one that ends well."""
    bug = (f"+callbacks.x._target_={__name__}.Bug", "+callbacks.x.on=1,0")
    status, printed = host(*MCD, *bug, "algo.loss=nope,ce")
    assert status == 1 and ended(host.folder) == ["3"]
    for job in (0, 2):
        assert f"Job #{job} failed: ConfigError: algo.loss=nope is unknown to algo=mcd" in printed
    assert 'raise ArithmeticError("a bug")' in printed
    assert "Job #1 failed: ArithmeticError: a bug" in printed and "Job #3" not in printed


@pytest.mark.slow
def test_in_processes_of_joblib(host):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "algo.loss=nope,ce")
    command = [sys.executable, "-m", "mdlm_mcd.minihost.main", *MCD, *host.tiny, *launcher]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=host.folder, text=True, capture_output=True, env=env)
    assert done.returncode == 1 and ended(host.folder) == ["1"], done.stderr[-3000:]
    assert "Job #0 failed: ConfigError: algo.loss=nope is unknown" in done.stderr
    assert "Traceback" not in done.stderr
