"""The measurements of benchmarks/gpu/run.py, tiny and on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu" / "run.py"


@pytest.mark.slow
def test_every_part_is_a_line(tmp_path):
    command = [sys.executable, str(RUN), "--device", "cpu"]
    done = subprocess.run(
        [*command, "--tiny", "--out", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (tmp_path / "figures.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert not [row for row in rows if "error" in row or "left_out" in row]
    steps = {row["algo"]: row for row in rows if row["part"] == "step"}
    assert set(steps) == {"mcd", "mdlm", "sdtt", "subset", "cd4lm", "dcd", "mmd"}
    assert all(0 < row["low"] <= row["ms"] <= row["high"] for row in steps.values())
    drawn = [(r["sampler"], r["steps"]) for r in rows if r["part"] == "samples"]
    sparse = [("sparse", n) for n in (8, 32, 128)]
    assert drawn == [*sparse, ("ancestral", 8), ("ancestral", 32), ("locked", 32)]
