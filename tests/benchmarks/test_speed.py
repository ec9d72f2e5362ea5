"""The speed benchmark: its arithmetic, and all of its parts at the size of a test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from speed_lib import parts, worker

SPEED = Path(parts.__file__).parents[1] / "speed.py"


def test_exponents_are_slopes_of_logarithms():
    rows = [{"length": n, "ms": 3 * n**2} for n in (128, 256, 512)]
    assert parts.exponent(rows, "length") == pytest.approx(2)


def test_workers_take_their_steps_in_turn():
    asked = []

    class Recorder:
        def __init__(self, name):
            self.name = name

        def ask(self, command):
            asked.append((self.name, command))
            return {"ms": len(asked)}

    found = worker.in_turn({name: Recorder(name) for name in "ab"}, "step", 2)
    assert [name for name, _ in asked] == list("ababab")
    # The first of each does not count.
    assert found == {"a": [{"ms": 3}, {"ms": 5}], "b": [{"ms": 4}, {"ms": 6}]}


@pytest.mark.slow
def test_every_part_runs(tmp_path):
    command = [sys.executable, str(SPEED), "--tiny", "--out", str(tmp_path), "--repeats", "1"]
    done = subprocess.run([*command, "--threads", "1"], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (tmp_path / "figures.jsonl").read_text().splitlines()]
    assert {row["part"] for row in rows} == {
        *("machine", "floor", "step", "sample", "growth", "exponent", "processes", "head")
    }
    assert not [row for row in rows if "error" in row]
    (floor,) = (row for row in rows if row["part"] == "floor")
    assert floor["gflop"] > 0 and floor["ratio"] == floor["mcd_ms"] / floor["floor_ms"]
    grown = [row for row in rows if row["part"] == "growth" and row["of"] == "parameters"]
    assert ["ms" in row for row in grown] == [True, False]  # one fits into no memory
    assert grown[1]["gflop"] > 1e4 * grown[0]["gflop"] > 0
    drawn = {(r["predictor"], r["steps"]): r for r in rows if r["part"] == "sample"}
    assert drawn["sparse", 4]["evaluations"] <= 4
