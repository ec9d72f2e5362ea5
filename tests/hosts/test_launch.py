"""`mdlm-mcd run`: the patch in memory, overrides, and the stop of unpatched hosts."""

import sys

import fakes
import pytest
import shell
import torch
from clones import contents, start

from mdlm_mcd.hosts import launch, patches
from mdlm_mcd.hosts.specs import DUO

MCD = [*shell.SHORT, "algo.rounds=2", "trainer.max_steps=2", "algo.delta0=1/16"]


@pytest.mark.slow
def test_in_memory_is_as_on_disk(compose, tmp_path):
    """The same student, in a host that is as it was, also of two processes.

    Lightning starts the second itself, from what it takes for the command.
    """

    def train(name, command, *more):
        where = [f"hydra.run.dir={tmp_path}/{name}", f"checkpointing.save_dir={tmp_path}/{name}"]
        done = start(host, *command, *compose.tiny, *MCD, *more, *where)
        assert done.returncode == 0, done.stderr[-3000:]
        path = tmp_path / name / "checkpoints" / "round-2.ckpt"
        return torch.load(path, weights_only=True)["state_dict"], done.stderr

    (tmp_path / "clone").mkdir()
    host = fakes.duo(tmp_path / "clone")
    before = contents(host)
    run = ["-m", "mdlm_mcd.commands.main", "run"]
    one, printed = train("memory", run, "trainer.devices=2", "strategy=ddp")
    assert contents(host) == before
    assert "mdlm-mcd run: Duo's main.py, patched in memory" in printed
    assert "MEMBER: 2/2" in printed
    patches.patch(host, DUO)
    torch.testing.assert_close(one, train("disk", ["main.py"])[0])


@pytest.mark.parametrize(
    "code, ends, words",
    [
        ("import mdlm_mcd.errors as e\nraise e.ConfigError('x=1.')", SystemExit, "^mdlm-mcd: x=1."),
        ("raise ValueError('a bug')", ValueError, "^a bug"),
    ],
)
def test_our_errors_end_a_run_in_one_sentence(monkeypatch, code, ends, words):
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    with pytest.raises(ends, match=words):
        launch.run("main.py", compile(code, "main.py", "exec"))


def test_what_is_no_host_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="for Duo's spec it lacks main.py, algo.py"):
        launch.main()


@pytest.mark.parametrize(
    "group, given, expected",
    [
        ("  - /algo: null", "algo=mcd a=1", "OURS algo=mcd a=1"),
        ("- override algo : x", "algo=mcd", "OURS algo=mcd"),
        ("", "algo=mcd algo.loss=ce", "OURS +algo=mcd algo.loss=ce"),
        ("# - /algo: x", "+algo=mcd", "OURS +algo=mcd"),
        # Where the group is there already, Hydra refuses the plus.
        ("- algo: x", "+algo=mcd +algo.x=1", "OURS algo=mcd +algo.x=1"),
        # Hydra's parser wants all overrides in one place.
        ("- algo: x", "-m algo=mcd", "-m OURS algo=mcd"),
        ("", "-cn config ~wandb -m", "-cn config OURS ~wandb -m"),
        ("", "--cfg job", "--cfg job OURS"),
        ("", "", "OURS"),
    ],
)
def test_overrides(group, given, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(launch.stubs, "default_overrides", lambda given: ["OURS"])
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "config.yaml").write_text(f"defaults:\n{group}\n", "utf-8")
    assert launch.overrides(tmp_path, given.split()) == expected.split()
