"""A checkpoint that means harm, given to each key and command that opens one."""

import shutil

import pytest
import torch


class Harm:
    """Pickled, it is a call that makes a folder."""

    def __init__(self, *args):
        self.args = tuple(map(str, args))

    def __reduce__(self):
        return shutil.copytree, self.args


@pytest.fixture
def evil(shell, monkeypatch):
    """The teacher's checkpoint, and a call beside its weights."""
    # As before torch 2.6, where nobody has to ask for the call to be made.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    content = torch.load(shell.teacher, weights_only=True)
    (shell.folder / "empty").mkdir()
    harm = Harm(shell.folder / "empty", shell.folder / "canary")
    torch.save({**content, "evil": harm}, shell.folder / "e.ckpt")
    yield shell.folder / "e.ckpt"
    assert not (shell.folder / "canary").exists()


REFUSED = {
    "resume": lambda s, path: s.host(
        "trainer.max_steps=2", f"checkpointing.resume_ckpt_path={path}"
    ),
    "resume mcd": lambda s, path: s.mcd(f"checkpointing.resume_ckpt_path={path}"),
    "finetune": lambda s, path: s.host(f"training.finetune_path={path}"),
    "sample": lambda s, path: s.host("mode=sample_eval", f"eval.checkpoint_path={path}"),
    "nelbo": lambda s, path: s.host("mode=ppl_eval", f"eval.checkpoint_path={path}"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_refused_with_the_name_that_was_found(shell, evil, how):
    status, printed = REFUSED[how](shell, evil)
    assert status == 1 and "Traceback" not in printed, printed
    assert "shutil.copytree" in printed


def test_weights_alone_are_read(shell, evil):
    assert shell.from_teacher(evil)[0] == 0
    assert shell.command("export", evil, shell.folder / "out")[0] == 0
    status, printed = shell.sweep("--evaluator", evil)
    assert status == 1 and "a left-to-right model" in printed
    shell.teacher = evil
    assert shell.sweep()[0] == 0
