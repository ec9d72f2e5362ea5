"""What a run may go on from: a checkpoint of its own settings, text and teacher."""

import logging
import shutil

import pytest
import torch
from runs import Watch, changed, fit, opened, student_class

from mdlm_mcd.errors import CheckpointError
from mdlm_mcd.minihost import main as minihost

MCD = student_class("mcd")


def files(folder):
    """Every file below it: bytes, and when it was written."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


@pytest.fixture
def middle(trained, teacher_path, tmp_path):
    """A copy of the teacher, the config of a run from it, and its checkpoint of step 4."""
    folder, config, _, _ = trained("mcd")
    teacher = shutil.copy(teacher_path, tmp_path / "t.ckpt")
    saved = opened(folder / "step-4.ckpt")
    for made in (saved["mdlm_mcd"], saved["hyper_parameters"]["config"]["algo"]):
        made["teacher_path"] = str(teacher)
    given = (f"algo.teacher_path={teacher}", f"checkpointing.save_dir={tmp_path}")
    return teacher, changed(config, *given), saved


def refused(config, saved, words):
    with pytest.raises(CheckpointError, match=words) as error:
        MCD.check_resume(config, saved, "x.ckpt")
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_what_changes_no_result_may_change_and_nothing_else(middle):
    """Nor more rounds, nor keys and digests of which the first releases knew nothing."""
    _, config, saved = middle
    fewer = "x.ckpt was written by a run with algo.rounds=2, and this one has algo.rounds=1: "
    refused(changed(config, "algo.rounds=1"), saved, fewer)
    free = ("algo.guard=warn", "loader.batch_size=4", "algo.delta0=0.0625", "algo.rounds=4")
    MCD.check_resume(changed(config, *free), saved, "x.ckpt")
    del saved["mdlm_mcd"]["teacher_sha256"]
    made = saved["hyper_parameters"]["config"]
    del made["algo"]["u_law"], made["algo"]["growth"]
    MCD.check_resume(config, saved, "x.ckpt")
    # Where no digest is, teachers are known by their names.
    refused(changed(config, "algo.teacher_path=org/other"), saved, "t.ckpt, and .*org/other")


def test_what_was_called_cd4lm_goes_on_as_subset_alone(trained, base, tmp_path):
    """By 0.1.0, of whose `algo=cd4lm` the present one is no continuation."""
    folder, config, watch, _ = trained("subset")
    saved, path = opened(folder / "step-4.ckpt"), tmp_path / "old.ckpt"
    old = {"name": "cd4lm", "_target_": "mdlm_mcd.hosts.CD4LM"}
    saved["hyper_parameters"]["config"]["algo"] |= old
    saved["mdlm_mcd"]["algo"] = "cd4lm"
    torch.save(saved, path)
    fit(changed(config, f"checkpointing.save_dir={tmp_path}"), again := Watch(), path)
    assert again.losses == watch.losses[8:]
    now = changed(base("cd4lm"), "training.ema=0.9", "model.dropout=0.2")
    words = "algo.name=subset, algo.loss=kl_fwd, and .*algo.name=cd4lm, algo.loss=kl_soft"
    with pytest.raises(CheckpointError, match=words):
        student_class("cd4lm").check_resume(now, saved, "x.ckpt")


def test_a_checkpoint_of_no_distillation_is_refused(middle):
    _, config, saved = middle
    for note in ({}, {"mdlm_mcd": 5}):
        saved.pop("mdlm_mcd", None)
        refused(config, saved | note, "was not written by algo=mcd")


def test_the_same_teacher_may_move_or_go(middle, tmp_path):
    teacher, config, saved = middle
    finetune = changed(config, "algo.teacher_path=", f"training.finetune_path={teacher}")
    MCD.check_resume(finetune, saved, "x.ckpt")
    moved = teacher.rename(tmp_path / "moved.ckpt")
    MCD.check_resume(config, saved, "x.ckpt")  # it is in the checkpoint
    config = changed(config, f"algo.teacher_path={moved}")
    MCD.check_resume(config, saved, "x.ckpt")
    other = opened(moved)
    other["ema"]["shadow_params"][0].add_(1e-3)
    torch.save(other, moved)
    refused(config, saved, f"{teacher} .SHA-256 .*{moved} .SHA-256")
    refused(changed(config, "algo.teacher_path=no.ckpt"), saved, "t.ckpt, and .*=no.ckpt")


def test_a_finished_run_says_so_and_writes_nothing(config, tmp_path, caplog):
    given = config("algo.init_from=scratch")
    minihost.run(given)
    path, before = tmp_path / "checkpoints" / "last.ckpt", files(tmp_path)
    with caplog.at_level(logging.INFO):
        minihost.run(given)
        assert files(tmp_path) == before
        fit(given, ckpt_path=path)  # as the real hosts fit again, whatever the checkpoint
    assert opened(path)["mdlm_mcd"]["teacher_path"] == ""  # from scratch, whatever it names
    assert caplog.text.count(f"{path} is finished at step 6; nothing to do") == 2
    assert files(path.parent).items() <= before.items()


def test_more_rounds_and_moved_text_go_on(config, corpus, tmp_path):
    text = shutil.copy(corpus, tmp_path / "text.txt")

    def given(path, *more):
        return config("algo.init_from=scratch", f"data.files=[{path}]", *more)

    minihost.run(given(text, "algo.rounds=1", "trainer.max_steps=3"))
    moved = text.rename(tmp_path / "moved.txt")
    minihost.run(given(moved))
    assert opened(tmp_path / "checkpoints" / "round-2.ckpt")["global_step"] == 6
    lines = moved.read_text().split("\n\n\n")
    moved.write_text("\n\n\n".join([*lines[1:], lines[0]]))  # in another order
    with pytest.raises(CheckpointError, match="training rows of SHA-256 [0-9a-f]{11}"):
        minihost.run(given(moved))


def test_a_wrapped_checkpoint_is_resumed_and_evaluated(trained, config, tmp_path):
    """DDP and torch.compile change the names of what they wrap."""
    folder, given, _, _ = trained("mcd")
    saved, path = opened(folder / "step-4.ckpt"), tmp_path / "wrapped.ckpt"
    weights = saved["state_dict"].items()
    saved["state_dict"] = {f"module._orig_mod.{name}": value for name, value in weights}
    torch.save(saved, path)
    fit(changed(given, f"checkpointing.save_dir={tmp_path}"), ckpt_path=path)
    found, wanted = (opened(f / "round-2.ckpt") for f in (tmp_path / "checkpoints", folder))
    assert all(map(torch.equal, found["state_dict"].values(), wanted["state_dict"].values()))
    paths = folder / "step-4.ckpt", path
    one, other = (minihost.run(config("mode=ppl_eval", f"eval.checkpoint_path={p}")) for p in paths)
    assert one == other
