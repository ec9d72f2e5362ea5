"""A short run of the fuzzer, whose every case is the same in every run."""

import random
import subprocess
import sys

import pytest
from fuzzing import mutations, seeds, targets
from inside import BENCHMARKS

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.hosts import DISTILLERS


def test_some_hundred_spoilt_files(tmp_path):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "fuzz.py", "--cases", "240", "--seed", "0",
         "--out", tmp_path / "fuzz", "--kind", "checkpoint", "results"],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bugs: 0" in done.stdout


def test_the_fuzzer_sees_what_it_looks_for(tmp_path):
    """Its guard notes a command, a file elsewhere and a hang, in a process apart."""
    code = (
        "import os, pathlib, subprocess, sys, time\n"
        "from fuzzing.guard import Guard, Hang\n"
        "guard, here = Guard(), sys.argv[1]\n"
        "with guard.case((here,), 20):\n"
        "    pathlib.Path(here, 'mine').write_text('x')\n"
        "print(len(guard.seen))\n"
        "for act in (lambda: os.system('true'), lambda: subprocess.run(['true']),\n"
        "            lambda: pathlib.Path(here).with_name('not-mine').touch(),\n"
        "            lambda: exec('1'), lambda: os.mkdir(here + '2')):\n"
        "    with guard.case((here + os.sep,), 20):\n"
        "        act()\n"
        "    print(bool(guard.seen))\n"
        "try:\n"
        "    with guard.case((here,), 0.02):\n"
        "        while True:\n"
        "            time.sleep(0.01)\n"
        "except Hang:\n"
        "    print('hang')\n"
    )
    (tmp_path / "run").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        capture_output=True, text=True, cwd=BENCHMARKS,
    )  # fmt: skip
    assert done.stdout.split() == ["0", *["True"] * 5, "hang"], done.stderr


@pytest.mark.parametrize(
    "mutate", [mutations.of_bytes, mutations.of_lines, mutations.of_words]
)
def test_a_case_can_be_had_again(mutate):
    data = b'{"a": 1}\nb=2'
    made = [mutate(random.Random("1 x 7"), data, [b"other"]) for _ in range(2)]
    assert made[0] == made[1]


@pytest.mark.parametrize("name", DISTILLERS)
def test_the_settings_of_every_distiller_are_read(tmp_path, name):
    given, read = f"algo={name.lower()}", targets.TARGETS["overrides"].read
    good = [s for s in seeds.overrides(tmp_path) if s.startswith(given.encode())]
    assert good
    for data in good:
        read(tmp_path, data, random.Random(0), tmp_path)
    with pytest.raises(ConfigError, match="algo.loss=nope is unknown"):
        read(tmp_path, f"{given}\nalgo.loss=nope".encode(), random.Random(0), tmp_path)


def test_a_range_of_gamma_is_read(tmp_path):
    """DCD holds its own against the vocabulary, which takes a model."""
    read = targets.TARGETS["overrides"].read
    with pytest.raises(ConfigError, match="algo.gamma_min=3 and algo.gamma_max"):
        read(tmp_path, b"algo=dcd\nalgo.gamma_min=3", random.Random(0), tmp_path)
