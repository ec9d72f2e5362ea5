"""Slices of benchmarks/gpu_quality.sh: what is started, stopped and gone on with."""

import os
import subprocess

from inside import BENCHMARKS, Inside

from mdlm_mcd.evaluation.rows import existing

TINY = dict(
    MODEL="model=laptop model.hidden_size=32 model.n_blocks=1 model.n_heads=2 model.cond_dim=16 "
    "data.max_chars=60000 trainer.limit_val_batches=1",
    **dict(DEVICE="cpu", LENGTH="16", VOCAB="300", BATCH="8", MICRO_BATCH="8", EVERY="2"),
    **dict(JUDGE_STEPS="2", TEACHER_STEPS="6", ROUNDS="2", STEPS_PER_ROUND="2", STEPS="2 4"),
    **dict(TEMPERATURES="0.8,1.0", SAMPLES="2", ROWS="2", MINUTES="60"),
)


def script(out, python, **changed):
    env = {**os.environ, **TINY, "OUT": str(out), "PYTHON": str(python), **changed}
    command = ["bash", str(BENCHMARKS / "gpu_quality.sh")]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def fake(path, body):
    """A program in Python's place, which notes its arguments."""
    path.write_text(f'#!/bin/bash\nprintf "%s\\x1f" "$@" >> {path}.calls\n{body}\n')
    path.chmod(0o755)
    return path


def calls(python):
    parts = python.with_name(python.name + ".calls").read_text().split("-m\x1f")[1:]
    return [part.split("\x1f")[:-1] for part in parts]


def test_the_whole_comparison(tmp_path):
    """Every method under both laws at every step count, by the commands it starts."""
    python = fake(tmp_path / "python", "true")
    done = script(tmp_path / "out", python)
    assert done.returncode == 0, done.stderr
    started, inside = calls(python), Inside()
    log = tmp_path / "log.txt"
    for module, *arguments in started:
        assert inside(module, arguments, log).status == 0, log.read_text("utf-8")
    algos = "ar mdlm mdlm mcd sdtt subset".split()
    assert inside.stages == [*(f"algo={a}" for a in algos), *["sweep"] * 4, "report"]
    students = {"continued", "Subset consistency round 1"} | {
        f"{label} round {k}" for label in ("MCD", "SDTT") for k in (1, 2)
    }
    models = [("teacher", (0.8, 1.0)), *((name, (1.0,)) for name in students)]
    rows = existing(tmp_path / "out" / "results.jsonl")
    points = {(r["model"], r["steps"], r["temperature"], r["u_law"], r["u_step"]) for r in rows}
    assert points == {
        (name, n, t, law, 1 / n if law == "lattice" else None)
        for name, heats in models
        for n in (2, 4)
        for t in heats
        for law in ("iid", "lattice")
    }
    assert (tmp_path / "out" / "report.html").exists()
    assert script(tmp_path / "out", python).returncode == 0 and calls(python) == started


def test_a_slice_ends_and_the_next_goes_on(tmp_path):
    """Status 3 where time is over: again, but for a slice that has done nothing."""
    python = fake(tmp_path / "python", 'touch "$OUT/x.ckpt"; sleep 9')
    out = tmp_path / "out"
    changed = {"MINUTES": "1", "SAVING": "59"}
    assert script(out, python, SLICES="2", **changed).returncode == 3
    assert [c[1] for c in calls(python)] == [f"hydra.run.dir={out}/runs/judge"] * 2
    done = script(out, fake(tmp_path / "idle", "sleep 9"), **changed)
    assert done.returncode == 1 and "too few for one checkpoint" in done.stderr
    done = script(out, fake(tmp_path / "broken", "echo sorry; exit 7"))
    assert done.returncode == 1 and "sorry" in done.stderr
