"""Forks of the hosts: two rounds, and the student in their own code; or a clear refusal.

As `test_clones`, shorter, with `standins` for what they want of a machine. docs/hosts.md
says which commits were run.
"""

import os
from pathlib import Path

import clones
import pytest
from clones import contents, nelbo, same, weights

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.hosts import launch, patches

pytestmark = [pytest.mark.hosts, pytest.mark.slow]

FOUND = clones.find()
ROUNDS = ["algo.rounds=2", "algo.steps_per_round=2", "algo.delta0=1/16"]
SHORT = ["trainer.max_steps=4", "trainer.val_check_interval=2"]
SAMPLED = "eval.generate_samples=True"  # at the end of each round, by our sampler

KEYS = {"scaling-dllms": ["+algo.adaLN=true"]}  # of the fork's model, which ours do not have

BLOCKS = r"Diffusion\.q_xt\(x, move_chance, \.\.\.\) but \(x, p, block_size"
REFUSED = {
    "UNI-D2": r"for Duo's spec it lacks main\.py, algo\.py",
    "XDLM": r"other lines where duo\.patch would go",
    "blockgen": r"MDLM\.forward\(xt, sigma, \.\.\.\) but \(\*, x0, xt, sigma, context\)",
    "bd3lms": BLOCKS,
    "gumbel-distill": BLOCKS,
}


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """The stand-ins, first on the path of what is started."""
    path = [str(clones.HERE / "standins"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))


def folder_of(name):
    folder = Path(os.environ.get("MDLM_MCD_HOSTS", "."), name).resolve()
    return folder if folder.is_dir() else pytest.skip(f"no clone of {name} in MDLM_MCD_HOSTS")


@pytest.mark.parametrize("name", REFUSED)
def test_a_fork_that_does_not_fit_is_refused_by_what_differs(name):
    with pytest.raises(ConfigError, match=REFUSED[name]):
        launch.prepare(folder_of(name))


def test_a_trainer_of_another_layout_is_refused_before_its_data(assets, tmp_path):
    """UNI-D2 looks at `algo._target_` by itself, without a patch or `mdlm-mcd run`."""
    given = f"""
        algo=mcd data=wikitext2 data.tokenizer_name_or_path={assets}/tokenizer ~wandb
        trainer.devices=1 hydra.run.dir={tmp_path} checkpointing.save_dir={tmp_path}
    """.split()
    done = clones.start(folder_of("UNI-D2") / "src", "-m", "discrete_diffusion", *given)
    assert done.returncode and "no host it could train was found" in done.stderr, done.stderr


# The loss of `algo=mdlm` in flm ends in an error of its own (docs/hosts.md).
@pytest.mark.parametrize("name", sorted(clones.FORKS.keys() - {"flm"}))
def test_two_rounds_in_a_fork(name, assets, tmp_path):
    if name not in FOUND:
        pytest.skip(f"no clone of {name} in MDLM_MCD_HOSTS")
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
    nelbo(fork, "nelbo", *fork.own, *SHORT, f"eval.checkpoint_path={student}")
    patches.patch(fork.folder, fork.spec)
    out, _ = fork.run("patched", "algo=mcd", *ROUNDS, *more)
    assert same(one, weights(out / "checkpoints" / "round-2.ckpt")[0])
