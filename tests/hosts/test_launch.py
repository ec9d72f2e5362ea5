"""`mdlm-mcd run`: the patch in memory, overrides, and the stop of unpatched hosts."""

import hashlib
import os
import subprocess
import sys

import fakes
import pytest
import torch

from mdlm_mcd.hosts import launch, patches
from mdlm_mcd.hosts.specs import DUO, MDLM

MCD = [
    "algo=mcd",
    "algo.init_from=scratch",
    "algo.rounds=2",
    "algo.steps_per_round=2",
    "trainer.max_steps=4",
    "algo.delta0=1/16",
]


def tree(folder):
    return {
        p: hashlib.md5(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*.py")) + sorted(folder.rglob("*.yaml"))
    }


def start(folder, *command, **env):
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **env},
    )


@pytest.fixture
def host(tmp_path):
    (tmp_path / "clone").mkdir()
    return fakes.duo(tmp_path / "clone")


def student(folder):
    held = torch.load(folder / "checkpoints" / "round-2.ckpt", weights_only=True)
    return held["state_dict"]


@pytest.mark.slow
def test_in_memory_is_as_on_disk(host, compose, tmp_path):
    """The same student, and a host that is as it was."""
    before = tree(host)
    ends = []
    for name, command in (
        ("memory", ["-m", "mdlm_mcd.commands.main", "run"]),
        ("disk", ["main.py"]),
    ):
        if name == "disk":
            patches.patch(host, DUO)
        out = tmp_path / name
        done = start(
            host,
            *command,
            *compose.tiny,
            *MCD,
            f"hydra.run.dir={out}",
            f"checkpointing.save_dir={out}",
        )
        assert done.returncode == 0, done.stderr[-3000:]
        ends.append(student(out))
        if name == "memory":
            assert tree(host) == before
            assert "mdlm-mcd run: Duo's main.py, patched in memory" in done.stderr
    assert all(torch.equal(a, ends[1][k]) for k, a in ends[0].items())


@pytest.mark.slow
def test_further_processes_come_through_the_launcher(host, compose, tmp_path):
    """Lightning starts them itself, from what it takes for the command."""
    done = start(
        host,
        "-m",
        "mdlm_mcd.commands.main",
        "run",
        *compose.tiny,
        *MCD,
        f"hydra.run.dir={tmp_path}/out",
        f"checkpointing.save_dir={tmp_path}/out",
        "trainer.devices=2",
        "strategy=ddp",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "MEMBER: 2/2" in done.stderr
    assert student(tmp_path / "out")


@pytest.mark.slow
def test_an_unpatched_host_stops_with_one_sentence(host, compose, tmp_path):
    done = start(host, "main.py", *compose.tiny, *MCD, f"hydra.run.dir={tmp_path}/out")
    assert done.returncode == 1
    (said,) = [x for x in done.stderr.splitlines() if x.startswith("mdlm-mcd: ")]
    assert "`mdlm-mcd patch .`" in said and "`mdlm-mcd run`" in said
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.slow
def test_nor_with_its_configs_elsewhere(host, compose, tmp_path):
    (host / "configs").rename(tmp_path / "configs")
    done = start(
        host,
        "main.py",
        f"--config-path={tmp_path}/configs",
        *compose.tiny,
        *MCD,
        f"hydra.run.dir={tmp_path}/out",
    )
    assert done.returncode == 1 and "`mdlm-mcd patch .`" in done.stderr


def test_our_errors_are_one_sentence(host, compose, tmp_path):
    """And so are Hydra's own about overrides; other jobs of a sweep run."""
    where = [f"checkpointing.save_dir={tmp_path}/${{algo.loss}}"]
    where += [f"hydra.sweep.dir={tmp_path}/out", f"hydra.run.dir={tmp_path}/out"]
    for given, words in (
        (["-m", "algo.loss=nope,ce"], "mdlm-mcd: algo.loss=nope is unknown"),
        (["algo.losss=ce"], "mdlm-mcd: algo.losss=ce names no key of the config: did"),
    ):
        done = start(
            host, "-m", "mdlm_mcd.commands.main", "run", *given, *compose.tiny, *MCD, *where
        )
        assert done.returncode == 1 and words in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    assert student(tmp_path / "ce")


@pytest.mark.slow
def test_a_comment_is_no_patch(host, compose, tmp_path):
    main = host / "main.py"
    main.write_text("# config.algo._target_ would be nice\n" + main.read_text())
    done = start(host, "main.py", *compose.tiny, *MCD)
    assert done.returncode == 1 and "`mdlm-mcd patch .`" in done.stderr


def test_the_hosts_own_algo_needs_no_patch(host, compose, tmp_path):
    done = start(
        host,
        "main.py",
        *compose.tiny,
        "algo=mdlm",
        "trainer.max_steps=1",
        f"hydra.run.dir={tmp_path}/out",
        f"checkpointing.save_dir={tmp_path}/out",
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_what_is_no_host_or_has_edits_is_refused(host, tmp_path):
    done = start(tmp_path, "-m", "mdlm_mcd.commands.main", "run", "algo=mcd")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "for Duo's spec it lacks main.py, algo.py" in done.stderr
    done = start(tmp_path, "-m", "mdlm_mcd.commands.main", "run", "a=1", HYDRA_FULL_ERROR="1")
    assert done.returncode == 1 and "Traceback" in done.stderr
    main = host / "main.py"
    main.write_text(main.read_text().replace("algo.name == 'ar'", "algo.name == 'AR'"))
    done = start(host, "-m", "mdlm_mcd.commands.main", "run", "algo=mcd")
    assert done.returncode == 1 and "local edits" in done.stderr


def test_errors_show_the_lines_that_ran(host, compose, tmp_path):
    """Not those on disk, which the patch in memory has moved."""
    main = host / "main.py"
    main.write_text(
        main.read_text().replace(
            "  embedded.MODES", "  raise KeyError(config.mode)\n  embedded.MODES"
        )
    )
    done = start(
        host,
        "-m",
        "mdlm_mcd.commands.main",
        "run",
        *compose.tiny,
        *MCD,
        f"hydra.run.dir={tmp_path}/out",
        HYDRA_FULL_ERROR="1",
    )
    assert done.returncode == 1
    assert "raise KeyError(config.mode)\n" in done.stderr


NEEDED = ["trainer.accelerator=cpu"]


@pytest.mark.parametrize(
    "spec, in_memory, given, expected",
    [
        (DUO, True, ["algo=mcd", "a=1"], [*NEEDED, "algo=mcd", "a=1"]),
        (MDLM, False, ["algo=mcd"], [*NEEDED, "algo=mcd"]),
        (MDLM, True, ["algo=mcd", "algo.loss=ce"], [*NEEDED, "+algo=mcd", "algo.loss=ce"]),
        (MDLM, True, ["+algo=mcd"], [*NEEDED, "+algo=mcd"]),
        # Where the group is there already, Hydra refuses the plus.
        (MDLM, False, ["+algo=mcd"], [*NEEDED, "algo=mcd"]),
        (DUO, True, ["+algo=mcd", "+algo.x=1"], [*NEEDED, "algo=mcd", "+algo.x=1"]),
        # Hydra's parser wants all overrides in one place.
        (DUO, True, ["-m", "algo=mcd"], ["-m", *NEEDED, "algo=mcd"]),
        (DUO, True, ["-cn", "config", "~wandb", "-m"], ["-cn", "config", *NEEDED, "~wandb", "-m"]),
        (DUO, True, ["--cfg", "job"], ["--cfg", "job", *NEEDED]),
        (DUO, True, [], NEEDED),
    ],
)
def test_overrides(spec, in_memory, given, expected, monkeypatch):
    monkeypatch.setattr(launch.stubs, "default_overrides", lambda given: NEEDED)
    assert launch.overrides(spec, given, in_memory) == expected
