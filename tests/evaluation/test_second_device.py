"""Devices are kept apart: training, sampling and sweeps on a device that is no CPU.

`tests/second_device.py` stands in for it, in a process of its own.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils import backend_registration

from mdlm_mcd import sampling

TESTS = Path(__file__).parents[1]
IN_PARTS = ("trainer.accumulate_grad_batches=2", "loader.batch_size=4")
IN_PARTS += ("loader.global_batch_size=8",)

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason=f"torch {torch.__version__} lets no Python code be a device",
)


def run(script, *arguments):
    """Run a script of tests/on_second_device where `gpu:0` is a device; return its output."""
    scripts = TESTS / "second_device.py", TESTS / "on_second_device" / script
    command = [sys.executable, *map(str, (*scripts, *arguments))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_samplers():
    run("sample.py", *sampling.SAMPLERS)


@pytest.mark.slow
def test_a_sweep_with_the_embedded_hosts_judge(runs, tmp_path):
    run("sweep.py", runs["mdlm"], runs["ar"], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides, waits",
    [
        (("algo=mcd", "algo.u_law=lattice", "algo.snapshot=ema", *IN_PARTS), 3),
        (("algo=mcd",), 3),
        (("algo=sdtt",), 4),  # and for the tokens that open in the rollout
        (("algo=dcd", "algo.gamma_max=2"), 2),  # all rows are of one regime
    ],
)
def test_two_rounds(compose, tmp_path, overrides, waits):
    """Also how often a step waits for the device: for the rows of each regime, and the guard."""
    rounds = ("algo.rounds=2", "algo.steps_per_round=2", "trainer.max_steps=4")
    config = compose(*overrides, "algo.init_from=scratch", *rounds)
    OmegaConf.save(config, tmp_path / "config.yaml", resolve=True)
    printed = run("train.py", tmp_path / "config.yaml")
    counts = json.loads(printed.rpartition("waits: ")[2])
    assert max(counts) == waits, counts
