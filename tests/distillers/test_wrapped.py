"""Checkpoints whose names DDP or torch.compile changed, wherever one is opened."""

import pytest
import torch

from mdlm_mcd.errors import CheckpointError
from mdlm_mcd.evaluation import candidates, embedded
from mdlm_mcd.minihost import main as minihost

WRAPPED = {
    "DDP": "module.{}",
    "compiled": "_orig_mod.{}",
    "DDP, compiled": "module._orig_mod.{}",
    "compiled, DDP": "_orig_mod.module.{}",
    "its backbone alone": "backbone.module.",
    "both": "module.backbone._orig_mod.",
}
MCD = ("algo=mcd", "algo.rounds=2", "algo.steps_per_round=2", "optim.lr=1e-2")


@pytest.fixture(scope="module")
def student(module_compose, teacher_path, tmp_path_factory):
    """A run of two rounds; the checkpoint of its third step is there, too."""
    folder = tmp_path_factory.mktemp("student")
    minihost.run(
        module_compose(
            *MCD,
            f"algo.teacher_path={teacher_path}",
            "trainer.max_steps=4",
            "callbacks.checkpoint_every_n_steps.every_n_train_steps=3",
            "callbacks.checkpoint_every_n_steps.save_top_k=-1",
            f"checkpointing.save_dir={folder}",
        )
    )
    return folder / "checkpoints"


def wrapped(path, how, folder):
    held = torch.load(path, weights_only=True)
    held["state_dict"] = {
        WRAPPED[how].format(k)
        if "{" in WRAPPED[how]
        else k.replace("backbone.", WRAPPED[how], 1): v
        for k, v in held["state_dict"].items()
    }
    torch.save(held, folder / "wrapped.ckpt")
    return folder / "wrapped.ckpt"


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.mark.parametrize("how", WRAPPED)
def test_a_models_figures_are_the_same(compose, teacher_path, tmp_path, how):
    path = wrapped(teacher_path, how, tmp_path)
    for algo in ("mdlm", "mcd"):
        said = [
            minihost.run(compose(f"algo={algo}", "mode=ppl_eval", f"eval.checkpoint_path={p}"))
            for p in (teacher_path, path)
        ]
        assert said[0] == said[1]
    plain, other = (embedded.open_model(p)[0].backbone for p in (teacher_path, path))
    assert all(map(torch.equal, plain.parameters(), other.parameters()))
    shas = [
        candidates.open_model(candidates.Source.parse(str(p))).provenance["sha256"]
        for p in (teacher_path, path)
    ]
    assert shas[0] == shas[1]


@pytest.mark.parametrize("how", ["DDP", "both"])
def test_training_that_begins_with_one(compose, teacher_path, tmp_path, how):
    """By the host itself, and distilled: its weights, before any step."""
    path = wrapped(teacher_path, how, tmp_path)
    for i, start in enumerate(
        (
            ["algo=mdlm", f"training.finetune_path={path}", "trainer.max_steps=1"],
            [
                "algo=mcd",
                f"algo.teacher_path={path}",
                "algo.init_from=raw",
                "algo.rounds=1",
                "algo.steps_per_round=1",
                "trainer.max_steps=1",
            ],
        )
    ):
        where = f"checkpointing.save_dir={tmp_path / str(i)}"
        minihost.run(compose(*start, "optim.lr=0", where))
        found = weights(tmp_path / str(i) / "checkpoints" / "last.ckpt")
        held = weights(teacher_path)
        assert all(torch.equal(found[k], held[k]) for k in held)


@pytest.mark.parametrize("how", ["compiled, DDP", "its backbone alone"])
def test_a_run_goes_on_from_one(compose, student, teacher_path, tmp_path, how):
    path = wrapped(next(student.glob("*-3.ckpt")), how, tmp_path)
    minihost.run(
        compose(
            *MCD,
            f"algo.teacher_path={teacher_path}",
            "trainer.max_steps=4",
            f"checkpointing.resume_ckpt_path={path}",
            f"checkpointing.save_dir={tmp_path}",
        )
    )
    whole = weights(student / "last.ckpt")
    found = weights(tmp_path / "checkpoints" / "last.ckpt")
    assert all(torch.equal(found[k], whole[k]) for k in whole)


def test_two_tensors_of_one_name(compose, teacher_path, tmp_path):
    held = torch.load(teacher_path, weights_only=True)
    held["state_dict"] |= {f"module.{k}": v for k, v in held["state_dict"].items()}
    torch.save(held, tmp_path / "twice.ckpt")
    for algo in ("mdlm", "mcd"):
        with pytest.raises(CheckpointError, match="holds backbone.* twice, with and"):
            minihost.run(
                compose(
                    f"algo={algo}",
                    "mode=ppl_eval",
                    f"eval.checkpoint_path={tmp_path / 'twice.ckpt'}",
                )
            )
