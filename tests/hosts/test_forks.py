"""Forks of the hosts that the patches fit: two rounds, and the student in their own code.

As `test_clones`, shorter, with `standins` for what they want of a machine. docs/hosts.md
says which commits were run.
"""

import os

import clones
import pytest
from clones import contents, nelbo, same, weights

from mdlm_mcd.hosts import patches

pytestmark = [pytest.mark.hosts, pytest.mark.slow]

FOUND = clones.find()
ROUNDS = ["algo.rounds=2", "algo.steps_per_round=2", "algo.delta0=1/16"]
SHORT = ["trainer.max_steps=4", "trainer.val_check_interval=2"]
SAMPLED = "eval.generate_samples=True"  # at the end of each round, by our sampler

KEYS = {"scaling-dllms": ["+algo.adaLN=true"]}  # of the fork's model, which ours do not have


@pytest.mark.parametrize("name", clones.FORKS)
def test_two_rounds_in_a_fork(name, assets, tmp_path, monkeypatch):
    if name not in FOUND:
        pytest.skip(f"no clone of {name} in MDLM_MCD_HOSTS")
    path = [str(clones.HERE / "standins"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    fork = clones.copy(name, FOUND[name], tmp_path / "fork", assets, tmp_path / "runs")
    own, _ = fork.run("teacher", *fork.own, *SHORT, memory=True)
    teacher = f"algo.teacher_path={own / 'checkpoints' / 'last.ckpt'}"
    more = [teacher, *SHORT, SAMPLED, *KEYS.get(name, ())]
    before = contents(fork.folder)
    out, printed = fork.run("in memory", "algo=mcd", *ROUNDS, *more, memory=True)
    assert "patched in memory" in printed and contents(fork.folder) == before
    student = out / "checkpoints" / "round-2.ckpt"
    one, saved = weights(student)
    assert saved["global_step"] == 4 and saved["mdlm_mcd"]["teacher"]["round"] == 1
    assert not same(one, weights(out / "checkpoints" / "round-1.ckpt")[0])
    nelbo(fork, "nelbo", *fork.own, f"eval.checkpoint_path={student}")
    patches.patch(fork.folder, fork.spec)
    out, _ = fork.run("patched", "algo=mcd", *ROUNDS, *more)
    assert same(one, weights(out / "checkpoints" / "round-2.ckpt")[0])
