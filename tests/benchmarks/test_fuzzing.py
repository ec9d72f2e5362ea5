"""A short run of the fuzzer, whose every case is the same in every run."""

import collections
import json
import random
import subprocess
import sys

import pytest
import torch
from fuzz import KINDS
from fuzzing import held, mutations, seeds, targets
from inside import BENCHMARKS

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.hosts import DISTILLERS


@pytest.mark.slow
def test_some_hundred_spoilt_files(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            BENCHMARKS / "fuzz.py",
            "--cases",
            "240",
            "--seed",
            "0",
            "--out",
            tmp_path / "fuzz",
            "--kind",
            "checkpoint",
            "results",
        ],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bugs: 0" in done.stdout


# Of the other kinds: which cases. Each begins with its seeds, good and made wrong by
# hand: of `resume` and `eval` all of them, of what takes Hydra a while the last.
CASES = {
    "safetensors": (0, 60),
    "folder": (0, 50),
    "evaluator": (0, 16),
    "resume": (0, 80),
    "eval": (0, 38),
    "overrides": (9, 20),
    "recipe": (0, 7),
}


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """What became of each case by its kind, all in one process, not traced: quick."""
    code = (
        "import json, pathlib, sys\n"
        "from fuzzing import loop\n"
        "for kind, (first, last) in json.loads(sys.argv[2]).items():\n"
        "    print(json.dumps({'kind': kind}))\n"
        "    folder = pathlib.Path(sys.argv[1], kind)\n"
        "    loop.main(kind, first, last, 0, folder, traced=False)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path_factory.mktemp("fuzz"), json.dumps(CASES)],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=BENCHMARKS,
    )
    assert done.returncode == 0, done.stderr
    found, kind = {}, None
    for said in map(json.loads, done.stdout.splitlines()):
        kind = said.get("kind", kind)
        found.setdefault(kind, [])
        if "end" in said:
            found[kind].append(said)
    return found


def test_no_kind_is_left_out():
    assert set(KINDS) == set(targets.TARGETS) == {"checkpoint", "results", *CASES}


@pytest.mark.parametrize("kind", CASES)
def test_some_spoilt_files_of_every_kind(ends, kind):
    first, last = CASES[kind]
    assert [said["n"] for said in ends[kind]] == list(range(first, last))
    bugs = [said for said in ends[kind] if said["end"].startswith("bug")]
    assert not bugs, "\n".join(map(str, bugs))
    # Both happen, or what was read is not what was meant.
    count = collections.Counter(said["end"].split(":")[0] for said in ends[kind])
    assert count["opened"] and count["refused"]


def test_a_checkpoint_of_a_run_is_spoilt_in_its_tree():
    """As a file it stays whole: only what is inside becomes wrong."""
    good = held.saved(
        {
            "ema": {"decay": 0.9, "shadow_params": [torch.ones(2, 3)]},
            "loops": {"of": "Lightning"},
            "global_step": 3,
        }
    )
    made = [held.mutate(random.Random(i), good, [good]) for i in range(60)]
    assert made[:5] == [held.mutate(random.Random(i), good, [good]) for i in range(5)]
    whole = []
    for data in made:
        try:
            whole.append(held.opened(data))
        except Exception:  # one in ten is mutated as bytes
            continue
    assert len(whole) > 40
    assert all(x["loops"] == {"of": "Lightning"} for x in whole)
    assert any(not isinstance(x.get("ema"), dict) for x in whole)
    assert any(type(x.get("global_step")) is str for x in whole)


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
        capture_output=True,
        text=True,
        cwd=BENCHMARKS,
    )
    assert done.stdout.split() == ["0", *["True"] * 5, "hang"], done.stderr


@pytest.mark.parametrize("mutate", [mutations.of_bytes, mutations.of_lines, mutations.of_words])
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
