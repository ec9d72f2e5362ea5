"""A run's identity: what a checkpoint says of itself is what made it."""

import functools
import logging
import shutil

import pytest
import torch
from runs import changed, fit, opened

from mdlm_mcd.errors import CheckpointError
from mdlm_mcd.minihost import main as minihost

SHORT = (
    "trainer.max_steps=4",
    "lr_scheduler.num_warmup_steps=3",
    "trainer.limit_val_batches=0",
    "callbacks.checkpoint_every_n_steps.every_n_train_steps=2",
    "callbacks.checkpoint_every_n_steps.save_top_k=-1",
)
ROUNDS = ("algo.init_from=scratch", "algo.rounds=2", "algo.steps_per_round=2")


def resume(path):
    return f"checkpointing.resume_ckpt_path={path}"


def where(folder):
    return f"checkpointing.save_dir={folder}"


def files(folder):
    """Every file below it: bytes, and when it was written."""
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def runs(base, tmp_path_factory):
    """`runs(algo)`: the folder of a finished run, and configs for it."""

    @functools.cache
    def run(algo):
        folder = tmp_path_factory.mktemp(algo)
        rounds = () if algo == "mdlm" else ROUNDS
        config = functools.partial(changed, base(algo), *SHORT, *rounds, where(folder))
        minihost.run(config())
        return folder, config

    return run


@pytest.mark.parametrize("algo", ["mcd", "mdlm"])
def test_a_finished_run_says_so_and_writes_nothing(runs, algo, caplog):
    folder, config = runs(algo)
    path, before = folder / "checkpoints" / "last.ckpt", files(folder)
    with caplog.at_level(logging.INFO):
        minihost.run(config())
        assert files(folder) == before
        if algo == "mcd":  # as the real hosts fit again, whatever the checkpoint
            fit(config(), ckpt_path=path)
    message = f"{path} is finished at step 4; nothing to do"
    assert caplog.text.count(message) == (2 if algo == "mcd" else 1)
    assert files(folder / "checkpoints") == {
        k.relative_to("checkpoints"): v for k, v in before.items() if k.parts[0] == "checkpoints"
    }


@pytest.mark.parametrize(
    "algo, name, key, value, was",
    [
        ("mcd", "last", "algo.loss", "ce", "hybrid"),
        ("mdlm", "step-2", "data.vocab_size", "290", "300"),
    ],
)
def test_other_settings_are_refused(runs, algo, name, key, value, was):
    folder, config = runs(algo)
    path, before = folder / "checkpoints" / f"{name}.ckpt", files(folder)
    with pytest.raises(CheckpointError) as error:
        minihost.run(config(resume(path), f"{key}={value}"))
    message = str(error.value)
    assert message.startswith(f"{resume(path)} was written by")
    for words in (f"{key}={was}", f"{key}={value}", "hydra.run.dir", "resume_from_ckpt=false"):
        assert words in message, message
    after = files(folder)
    assert {k: after[k] for k in before} == before


FREE = (
    "algo.guard=warn",
    "algo.head_chunk=7",
    "algo.min_entropy=0.001",
    "loader.batch_size=4",
    "trainer.precision=32",
    "algo.delta0=0.0625",
    "trainer.log_every_n_steps=3",
    "eval.perplexity_batch_size=2",
)


def test_what_changes_no_result_may_change(runs, tmp_path):
    folder, config = runs("mcd")
    minihost.run(config(where(tmp_path), resume(folder / "checkpoints" / "step-2.ckpt"), *FREE))
    one, other = (opened(x / "checkpoints" / "last.ckpt") for x in (folder, tmp_path))
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(other["state_dict"][name], value)


def test_more_rounds_are_the_same_run_and_fewer_are_not(runs, tmp_path):
    folder, config = runs("mcd")
    at = (where(tmp_path), resume(folder / "checkpoints" / "last.ckpt"))
    with pytest.raises(CheckpointError, match="algo.rounds=2.*algo.rounds=1"):
        minihost.run(config(*at, "algo.rounds=1", "trainer.max_steps=2"))
    minihost.run(config(*at, "algo.rounds=3", "trainer.max_steps=6"))
    assert opened(tmp_path / "checkpoints" / "round-3.ckpt")["global_step"] == 6


def test_a_hosts_own_model_may_be_trained_longer(module_compose, tmp_path):
    config = module_compose("lr_scheduler=cosine_decay_warmup", where(tmp_path))
    for steps in (2, 4):
        given = changed(config, f"trainer.max_steps={steps}")
        before = given.copy()
        minihost.run(given)
        assert given == before
        assert opened(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == steps


def test_a_checkpoint_of_before_keys_and_digests_existed(runs, tmp_path):
    """Of the first releases: nothing to compare is no difference."""
    folder, config = runs("mcd")
    saved = opened(folder / "checkpoints" / "step-2.ckpt")
    del saved["mdlm_mcd"]["teacher_sha256"]
    made = saved["hyper_parameters"]["config"]
    del made["data"]["rows_sha256"], made["algo"]["u_law"], made["algo"]["growth"]
    torch.save(saved, tmp_path / "old.ckpt")
    at = (where(tmp_path), resume(tmp_path / "old.ckpt"))
    minihost.run(config(*at))
    with pytest.raises(CheckpointError, match="algo.loss=hybrid"):
        minihost.run(config(*at, "algo.loss=ce"))


@pytest.mark.parametrize("algo", ["mcd", "mdlm"])
def test_text_may_move_and_not_change(runs, corpus, tmp_path, algo):
    text = shutil.copy(corpus, tmp_path / "text.txt")

    def config(path, at="step-2"):
        at = resume(tmp_path / "run" / "checkpoints" / f"{at}.ckpt")
        return runs(algo)[1](f"data.files=[{path}]", where(tmp_path / "run"), at)

    minihost.run(config(text, at="last"))
    moved = text.rename(tmp_path / "moved.txt")
    minihost.run(config(moved))
    lines = moved.read_text().split("\n\n\n")
    moved.write_text("\n\n\n".join([*lines[1:], lines[0]]))  # in another order
    with pytest.raises(CheckpointError, match="training rows of SHA-256 [0-9a-f]{11}"):
        minihost.run(config(moved))


# The teacher --------------------------------------------------------------------------


@pytest.fixture
def taught(base, teacher_path, tmp_path):
    """A finished run whose teacher is tmp_path/t.ckpt, and configs that go on."""
    teacher = shutil.copy(teacher_path, tmp_path / "t.ckpt")
    rounds = ("algo.rounds=1", "algo.steps_per_round=4", where(tmp_path / "run"))

    def config(name="step-2", path=teacher, *more):
        at = resume(tmp_path / "run" / "checkpoints" / f"{name}.ckpt")
        return changed(base("mcd"), *SHORT, *rounds, f"algo.teacher_path={path}", at, *more)

    minihost.run(config("last"))
    return config, teacher


def another(teacher):
    saved = opened(teacher)
    saved["ema"]["shadow_params"][0].add_(1e-3)
    torch.save(saved, teacher)


def test_the_same_teacher_may_move_or_go(taught, tmp_path):
    config, teacher = taught
    # `training.finetune_path` in place of algo.teacher_path is the same file.
    finetune = ("", f"training.finetune_path={teacher}")
    minihost.run(config("step-2", *finetune))
    moved = teacher.rename(tmp_path / "moved.ckpt")
    minihost.run(config("step-2", moved))
    minihost.run(config())  # it is in the checkpoint
    with pytest.raises(CheckpointError, match=r"algo.teacher_path=.*t.ckpt, and .*=no"):
        minihost.run(config("step-2", "no.ckpt"))
    another(moved)
    moved.rename(teacher)
    with pytest.raises(CheckpointError, match="SHA-256"):
        minihost.run(config("step-2", *finetune))


def test_another_teacher_is_refused_whatever_its_name(taught, tmp_path):
    (config, teacher), name = taught, "last"
    other = shutil.copy(teacher, tmp_path / "other.ckpt")
    another(other)
    with pytest.raises(CheckpointError) as error:
        minihost.run(config(name, other))
    message = str(error.value)
    assert f"algo.teacher_path={teacher} (SHA-256 " in message and str(other) in message
    another(teacher)
    with pytest.raises(CheckpointError, match=f"{teacher} .SHA-256.*{teacher} .SHA"):
        minihost.run(config(name))


def test_teachers_are_known_by_their_names_where_no_digest_is(taught, tmp_path):
    config, _ = taught
    path = tmp_path / "run" / "checkpoints" / "step-2.ckpt"
    saved = opened(path)
    assert len(saved["mdlm_mcd"].pop("teacher_sha256")) == 64
    torch.save(saved, path)
    minihost.run(config())
    saved["mdlm_mcd"]["teacher_path"] = "org/name"  # on the Hub, and not fetched again
    torch.save(saved, path)
    minihost.run(config("step-2", "org/name"))
    with pytest.raises(CheckpointError, match="org/name, and this one has .*org/other"):
        minihost.run(config("step-2", "org/other"))
