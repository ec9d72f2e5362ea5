"""What the host's command prints while it runs, and how its jobs end."""

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


@pytest.mark.parametrize(
    "callbacks, more, bar",
    [("lines", ["~logger"], False), ("lines,progress", [], True)],
)
def test_lines_replace_the_bar(host, callbacks, more, bar):
    tiny = [o for o in host.tiny if "progress" not in o]
    status, said = host(f"callbacks=[{callbacks}]", "callbacks.lines.every=1", *more, tiny=tiny)
    assert status == 0 and ("Epoch 0" in said) == bar, said
    assert "step 2/2 trainer/loss=" in said


def test_a_terminal_that_is_not_utf8(host):
    """Bars, Lightning's table of the model, and what stands in a message."""
    tiny = [o for o in host.tiny if "progress" not in o and "summary" not in o]
    status, said = host("callbacks=[progress]", tiny=tiny, encoding="ascii")
    assert status == 0 and "backbone" in said, said
    status, said = host("mode=tr\u00e4in", encoding="ascii")
    assert status == 1 and "ConfigError: " in said and "mode=tr\\xe4in" in said


# Multiruns ----------------------------------------------------------------------------


def ended(folder):
    return sorted(p.parts[-3] for p in folder.glob("s/*/checkpoints/round-1.ckpt"))


def test_a_job_fails_alone(host):
    """One that is refused, one with a bug, one that ends well."""
    bug = ("+callbacks.x._target_=faulty.Bug", "+callbacks.x.on=1,0")
    status, said = host(*MCD, *bug, "algo.loss=nope,ce")
    assert status == 1 and ended(host.folder) == ["3"]
    for job in (0, 2):
        assert f"Job #{job} failed: ConfigError: algo.loss=nope is unknown to algo=mcd" in said
    assert 'raise Odd("a", "bug")' in said and "Job #1 failed: Odd: a bug" in said
    assert "Job #3" not in said


@pytest.mark.slow
@pytest.mark.parametrize("full", ["0", "1"])
def test_in_processes_of_joblib(host, full):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    here = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    command = [sys.executable, "-m", "mdlm_mcd.minihost.main", *MCD, *host.tiny, *launcher]
    done = subprocess.run(
        [*command, "algo.loss=nope,ce"],
        cwd=host.folder,
        text=True,
        capture_output=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": here, "HYDRA_FULL_ERROR": full},
    )
    assert done.returncode == 1 and ended(host.folder) == ["1"], done.stderr[-3000:]
    assert "Job #0 failed: ConfigError: algo.loss=nope is unknown" in done.stderr
    assert ("Traceback" in done.stderr) == (full == "1")
