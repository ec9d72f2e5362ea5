"""Slices of benchmarks/gpu_quality.py, tiny, on a CPU: stopped, killed, resumed."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from inside import BENCHMARKS, Inside

from mdlm_mcd.checkpoints.files import newest_checkpoint


def test_the_whole_comparison(paper, tmp_path, capsys):
    """Every method under both laws at every step count; once, and then not again."""
    inside = Inside()
    flags = ["--smoke", "--device", "cpu", "--out", str(tmp_path)]
    assert paper.quality.main(flags, start=inside) == 0, capsys.readouterr().err
    algos = "ar mdlm mdlm mcd sdtt cd4lm".split()
    assert inside.stages[:6] == [f"algo={algo}" for algo in algos]
    folder = tmp_path / "cpu"
    rows = [json.loads(line) for line in (folder / "results.jsonl").open()]
    recipe = paper.quality.SMOKE
    students = {"continued", "Subset consistency round 1"} | {
        f"{label} round {k}" for label in ("MCD", "SDTT") for k in (1, 2)
    }
    points = {(r["model"], r["steps"], r["temperature"], r["u_law"], r["u_step"]) for r in rows}
    assert points == {
        (name, n, t, law, 1 / n if law == "lattice" else None)
        for name, heats in [("teacher", recipe.temperatures)]
        + [(name, (1.0,)) for name in students]
        for n in recipe.steps
        for t in heats
        for law in recipe.laws
    }
    assert (folder / "report.html").exists()
    assert {r["machine"]["device"] for r in rows} == {"cpu"}

    again = Inside()
    assert paper.quality.main(flags, start=again) == 0
    assert again.stages == ["report"]


def tiny(paper, out, start, **changes):
    """A comparison whose teacher is trained for long; nothing else of it is used."""
    recipe = replace(paper.quality.SMOKE, **changes)
    return paper.quality.Quality(out, recipe, device="cpu", start=start, say=print)


def test_a_slice_ends_after_a_checkpoint_and_the_next_goes_on(paper, tmp_path):
    """Lightning's Timer counts a resumed run's past; a slice has its own time."""
    steps = 100_000  # more than a second's worth on any machine
    quality = tiny(paper, tmp_path, Inside(), checkpoint_every=steps)
    quality.clock = SimpleNamespace(left=lambda: 1.0)
    folder, reached, times = tmp_path / "cpu/runs/teacher/checkpoints", [0], [0.0]
    for _ in range(2):
        with pytest.raises(paper.stages.OutOfTime, match=f"of {steps:,}"):
            quality.pretrain("teacher", "mdlm", steps)
        last, step = newest_checkpoint(folder)
        assert reached[-1] < step < steps
        reached.append(step)
        times.append(paper.stages.spent(last))
        assert times[-1] > times[-2] + 0.9
    end = reached[-1] + 2
    quality.clock = SimpleNamespace(left=lambda: 600.0)
    assert quality.pretrain("teacher", "mdlm", end) == folder / "best.ckpt"
    assert newest_checkpoint(folder)[1] == end


def test_a_slice_of_a_distillation_ends_in_its_own_error(paper, tmp_path):
    """Which is none of the stage: the next slice has as much time, and goes on."""
    steps, folder, reached = 100_000, tmp_path / "run", [0]
    quality = tiny(paper, tmp_path, Inside(), checkpoint_every=steps)
    given = [
        *quality.overrides("mcd", steps),
        "algo.init_from=scratch",
        "algo.rounds=1",
        f"algo.steps_per_round={steps}",
    ]
    for _ in range(2):
        with pytest.raises(paper.stages.OutOfTime, match=f"of {steps:,}"):
            quality.stages.train("mcd", folder, given, steps, seconds=1.0)
        reached.append(newest_checkpoint(folder / "checkpoints")[1])
        assert reached[-1] > reached[-2]


def test_a_training_that_is_killed_goes_on(paper, tmp_path):
    """No signal to handle, no last word: the last whole checkpoint is enough."""

    def killed(module, arguments, log, *, folder=None, seconds=None):
        with log.open("a") as file:
            child = subprocess.Popen(
                [sys.executable, "-m", module, *arguments], stdout=file, stderr=file
            )
            while child.poll() is None and not (run / "last.ckpt").exists():
                time.sleep(0.05)
            child.kill()
            child.wait()
        return -9

    run = tmp_path / "cpu/runs/teacher/checkpoints"
    quality = tiny(paper, tmp_path, killed, checkpoint_every=20)
    with pytest.raises(paper.stages.StageError, match="exit status -9"):
        quality.pretrain("teacher", "mdlm", 100_000)
    step = newest_checkpoint(run)[1]
    # Lightning 2.2 writes last.ckpt at each validation too, before step 20.
    assert 0 < step < 100_000
    inside = Inside()
    quality = tiny(paper, tmp_path, inside, checkpoint_every=20)
    quality.pretrain("teacher", "mdlm", step + 10)
    assert newest_checkpoint(run)[1] == step + 10
    ((_, given),) = inside.calls
    assert any(x.startswith("checkpointing.resume_ckpt_path=") for x in given)


def test_sampling_out_of_time_goes_on_and_never_in_circles(paper, tmp_path):
    quality = tiny(paper, tmp_path, lambda *a, **k: None)
    quality.clock = SimpleNamespace(left=lambda: 1.0, minutes=2)
    with pytest.raises(paper.stages.StageError, match="--slice 2 is too short for one"):
        quality.sweep({"teacher": "t.ckpt"}, "judge.ckpt", (1.0,))
    quality.stages.trained = True  # this slice has done something
    with pytest.raises(paper.stages.OutOfTime, match="is at 2 steps"):
        quality.sweep({"teacher": "t.ckpt"}, "judge.ckpt", (1.0,))


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
    calls.unlink()
    assert subprocess.run(script, env={**env, "SLICES": "1"}).returncode == 3


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--device", "cuda"], "no CUDA device is there"),
        (["--slice", "1"], "--slice 1 is used up by starting and ending"),
        (["--data", "nowhere.txt"], "--data nowhere.txt is not there"),
        (["--device", "cpu", "--micro-batch", "5"], "--micro-batch 5 divide the batch"),
    ],
)
def test_bad_input(paper, tmp_path, capsys, monkeypatch, flags, said):
    monkeypatch.setattr(paper.quality.torch.cuda, "is_available", lambda: False)
    assert paper.quality.main([*flags, "--out", str(tmp_path)], start=Inside()) == 1
    assert said in capsys.readouterr().err


def test_other_settings_are_refused(paper, tmp_path):
    tiny(paper, tmp_path, Inside())
    with pytest.raises(paper.quality.ConfigError, match="another recipe"):
        tiny(paper, tmp_path, Inside(), samples=3)
