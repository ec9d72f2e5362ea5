"""Sweeps: a job that is refused, diverges or has a bug fails alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MCD = (
    "-m",
    "algo=mcd",
    "algo.init_from=scratch",
    "algo.rounds=1",
    "algo.steps_per_round=1",
    "trainer.max_steps=1",
    "algo.delta0=1/2",
    "hydra.sweep.dir=s",
)


def ended(folder):
    return sorted(p.parts[-3] for p in folder.glob("s/*/checkpoints/round-1.ckpt"))


@pytest.mark.parametrize("more", [(), ("hydra.sweeper.max_batch_size=1",)])
def test_the_others_run(host, more):
    status, said = host(*MCD, "algo.loss=nope,kl_bwd,ce,hybrid", *more)
    assert status == 1 and ended(host.folder) == ["2", "3"]
    assert "Job #0 failed: ConfigError: algo.loss=nope is unknown to algo=mcd" in said
    assert "Job #1 failed: DivergenceError: algo.loss=kl_bwd is " in said
    assert "2 of 4 jobs failed: #0, #1." in said and "Traceback" not in said


def test_the_last_one_fails(host):
    status, said = host(*MCD, "algo.loss=ce,nope")
    assert status == 1 and ended(host.folder) == ["0"]
    assert "1 of 2 jobs failed: #1." in said


def test_none_fails(host):
    status, said = host(*MCD, "algo.loss=ce,hybrid")
    assert status == 0 and "failed" not in said


def test_a_bug_keeps_its_traceback(host):
    status, said = host(*MCD, "+callbacks.x._target_=faulty.Bug", "+callbacks.x.on=1,0")
    assert status == 1 and ended(host.folder) == ["1"]
    assert 'raise Odd("a", "bug")' in said and "1 of 2 jobs failed: #0." in said


def test_a_traceback_where_it_is_asked_for(host, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    status, said = host(*MCD, "algo.loss=nope,ce")
    assert status == 1 and "Traceback" in said and ended(host.folder) == ["1"]
    assert os.environ["HYDRA_FULL_ERROR"] == "1"


@pytest.mark.slow
def test_in_processes_of_joblib(host):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mdlm_mcd.minihost.main",
            "-m",
            *host.tiny,
            *MCD[1:],
            "hydra/launcher=joblib",
            "hydra.launcher.n_jobs=2",
            "+callbacks.x._target_=faulty.Bug",
            "+callbacks.x.on=1,0",
            "algo.loss=nope,ce",
        ],
        cwd=host.folder,
        text=True,
        capture_output=True,
        timeout=300,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(
                [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
            ),
        },
    )
    assert done.returncode == 1 and ended(host.folder) == ["3"], done.stderr[-3000:]
    # Those two before they had a trainer, and the bug in the third job.
    assert done.stderr.count("failed: ConfigError: algo.loss=nope is unknown") == 2
    assert 'raise Odd("a", "bug")' in done.stderr
    assert done.stderr.strip().endswith("3 of 4 jobs failed: #0, #1, #2.")
