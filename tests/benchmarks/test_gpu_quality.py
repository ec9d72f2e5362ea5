"""Slices of benchmarks/gpu_quality.py, tiny, on a CPU: stopped, killed, resumed."""

import json
import os
import subprocess
from dataclasses import replace

import gpu_quality
import pytest
from inside import BENCHMARKS, Inside
from paper.stages import StageError, start

from mdlm_mcd.checkpoints.files import newest_checkpoint

RECIPE = gpu_quality.SMOKE


def tiny(out, start, **changes):
    args, _ = gpu_quality.parsed(["--smoke", "--device", "cpu", "--out", str(out)])
    return gpu_quality.Quality(args, replace(RECIPE, **changes), start)


def test_the_whole_comparison(tmp_path, capsys):
    """Every method under both laws at every step count; once, and then not again."""
    inside = Inside()
    flags = ["--smoke", "--device", "cpu", "--out", str(tmp_path)]
    assert gpu_quality.main(flags, start=inside) == 0, capsys.readouterr().err
    algos = "ar mdlm mdlm mcd sdtt cd4lm".split()
    assert inside.stages[:6] == [f"algo={algo}" for algo in algos]
    folder = tmp_path / "cpu"
    rows = [json.loads(line) for line in (folder / "results.jsonl").open()]
    students = {"continued", "Subset consistency round 1"} | {
        f"{label} round {k}" for label in ("MCD", "SDTT") for k in (1, 2)
    }
    models = [("teacher", RECIPE.temperatures), *((name, (1.0,)) for name in students)]
    points = {(r["model"], r["steps"], r["temperature"], r["u_law"], r["u_step"]) for r in rows}
    assert points == {
        (name, n, t, law, 1 / n if law == "lattice" else None)
        for name, heats in models
        for n in RECIPE.steps
        for t in heats
        for law in gpu_quality.LAWS
    }
    assert (folder / "report.html").exists()
    again = Inside()
    assert gpu_quality.main(flags, start=again) == 0 and again.stages == ["report"]
    with pytest.raises(gpu_quality.ConfigError, match="another recipe"):
        tiny(tmp_path, Inside(), samples=3)


@pytest.mark.slow
def test_a_slice_ends_after_a_checkpoint_and_the_next_goes_on(tmp_path, monkeypatch):
    """The child saves at SIGTERM: it writes no other checkpoint in these steps."""
    monkeypatch.setattr(gpu_quality, "SAVING", 0.0)
    reached, steps = [0], 1_000_000
    for _ in range(2):
        quality = tiny(tmp_path, start, judge_steps=steps, every=steps)
        with pytest.raises(gpu_quality.OutOfTime):
            quality.slice(1.0)
        step = newest_checkpoint(tmp_path / "cpu/runs/judge/checkpoints")[1]
        assert reached[-1] < step < steps
        reached.append(step)


def test_a_slice_that_does_nothing_is_no_slice(tmp_path, monkeypatch):
    """It would begin at the same place for ever."""
    monkeypatch.setattr(gpu_quality, "SAVING", 0.0)

    def slow(module, arguments, log, *, folder=None):
        gpu_quality.time.sleep(60)

    with pytest.raises(StageError, match="--slice 0.001 is too short for one point"):
        tiny(tmp_path, slow).slice(0.001)


def test_the_shell_script_calls_until_the_report_stands(tmp_path):
    """Status 3: again; anything else is the end."""
    fake, calls = tmp_path / "python", tmp_path / "calls"
    fake.write_text(
        f'#!/bin/sh\necho "$@" >> {calls}\n[ $(wc -l < {calls}) -lt 3 ] && exit 3\nexit 7\n'
    )
    fake.chmod(0o755)
    script = ["bash", str(BENCHMARKS / "gpu_quality.sh"), "--out", "x"]
    env = {"PATH": os.environ["PATH"], "PYTHON": str(fake)}
    assert subprocess.run(script, env=env).returncode == 7
    line = f"{BENCHMARKS}/gpu_quality.py --slice 8 --out x"
    assert calls.read_text().splitlines() == [line] * 3


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--device", "cuda"], "no CUDA device is there"),
        (["--slice", "1"], "--slice 1 is used up by starting and ending"),
        (["--data", "nowhere.txt"], "--data nowhere.txt is not there"),
        (["--device", "cpu", "--micro-batch", "5"], "--micro-batch 5 divide the batch"),
    ],
)
def test_bad_input(tmp_path, capsys, monkeypatch, flags, said):
    monkeypatch.setattr(gpu_quality.torch.cuda, "is_available", lambda: False)
    assert gpu_quality.main([*flags, "--out", str(tmp_path)], start=Inside()) == 1
    assert said in capsys.readouterr().err
