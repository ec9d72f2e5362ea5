"""Checkpoints whose names DDP or torch.compile changed, wherever one is opened."""

import pytest
import torch
from runs import fit, opened

from mdlm_mcd.evaluation import candidates, embedded
from mdlm_mcd.minihost import main as minihost

WRAPPED = {
    "DDP, compiled": "module._orig_mod.{}",
    "its backbone alone": "backbone.module.",
    "both": "module.backbone._orig_mod.",
}
ONE = ("algo.rounds=1", "algo.steps_per_round=1", "trainer.max_steps=1", "optim.lr=0")


def wrapped(path, how, folder):
    saved, name = opened(path), WRAPPED[how]
    saved["state_dict"] = {
        name.format(k) if "{" in name else k.replace("backbone.", name, 1): v
        for k, v in saved["state_dict"].items()
    }
    torch.save(saved, folder / "wrapped.ckpt")
    return folder / "wrapped.ckpt"


def assert_same_weights(found, wanted):
    found, wanted = opened(found)["state_dict"], opened(wanted)["state_dict"]
    assert all(torch.equal(found[k], wanted[k]) for k in wanted)


@pytest.mark.parametrize("how, algo", [("DDP, compiled", "mdlm"), ("both", "mcd")])
def test_a_models_figures_are_the_same(config, teacher_path, tmp_path, how, algo):
    paths = teacher_path, wrapped(teacher_path, how, tmp_path)
    given = [("mode=ppl_eval", f"eval.checkpoint_path={p}") for p in paths]
    one, other = (minihost.run(config(*how, algo=algo)) for how in given)
    assert one == other
    one, other = (embedded.open_model(p)[0].backbone.parameters() for p in paths)
    assert all(map(torch.equal, one, other))
    one, other = (candidates.open_model(candidates.Source.parse(str(p))).provenance for p in paths)
    assert one["sha256"] == other["sha256"]


@pytest.mark.parametrize(
    "algo, key", [("mdlm", "training.finetune_path"), ("mcd", "algo.teacher_path")]
)
def test_training_that_begins_with_one(config, teacher_path, tmp_path, algo, key):
    """By the host itself, and distilled: its weights, before any step."""
    path = wrapped(teacher_path, "both", tmp_path)
    given = (*ONE, "algo.init_from=raw") if algo == "mcd" else ONE[2:]
    minihost.run(config(*given, f"{key}={path}", algo=algo))
    assert_same_weights(tmp_path / "checkpoints" / "last.ckpt", teacher_path)


def test_a_run_goes_on_from_one(trained, config, tmp_path):
    folder, given, _, _ = trained("mcd")
    path = wrapped(folder / "step-4.ckpt", "its backbone alone", tmp_path)
    given = given.copy()
    given.checkpointing.save_dir = str(tmp_path)
    fit(given, ckpt_path=path)
    assert_same_weights(tmp_path / "checkpoints" / "round-2.ckpt", folder / "round-2.ckpt")
