"""A run's identity: what a checkpoint says of itself is what made it."""

import json
import logging
import shutil
from functools import partial

import pytest
import torch
from runs import changed, fit

from mdlm_mcd.commands import export
from mdlm_mcd.errors import CheckpointError, MCDError
from mdlm_mcd.minihost import main as minihost

OURS = ("mcd", "sdtt", "cd4lm", "dcd")
HOSTS = ("mdlm", "ar", "duo_base")
ROUNDS = (
    "algo.init_from=scratch",
    "algo.rounds=2",
    "algo.steps_per_round=2",
    "trainer.max_steps=4",
    "lr_scheduler.num_warmup_steps=3",
)
EXTRA = {"mcd": ("algo.delta0=1/16",), "dcd": ("algo.gamma_max=1",)}
EVERY = (
    "callbacks.checkpoint_every_n_steps.every_n_train_steps=2",
    "callbacks.checkpoint_every_n_steps.save_top_k=-1",
)


def overrides(algo):
    rounds = ROUNDS if algo in OURS else ROUNDS[3:]
    return [f"algo={algo}", *rounds, *EXTRA.get(algo, ()), *EVERY]


def files(folder):
    """Every file below it: bytes, and when it was written."""
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def runs(module_compose, tmp_path_factory):
    """`runs(algo)`: the folder of a finished run, and configs for it."""
    made = {}

    def run(algo):
        if algo not in made:
            folder = tmp_path_factory.mktemp(algo)
            where = f"checkpointing.save_dir={folder}"
            config = partial(changed, module_compose(*overrides(algo), where))
            minihost.run(config())
            made[algo] = folder, config
        return made[algo]

    return run


@pytest.mark.parametrize("algo", OURS + HOSTS)
def test_a_finished_run_says_so_and_writes_nothing(runs, algo, caplog):
    folder, config = runs(algo)
    before = files(folder)
    with caplog.at_level(logging.INFO):
        minihost.run(config())
    path = folder / "checkpoints" / "last.ckpt"
    assert f"{path} is finished at step 4; nothing to do" in caplog.text
    assert files(folder) == before


@pytest.mark.parametrize("algo", OURS)
def test_a_finished_run_in_a_host_that_fits_again(runs, algo, caplog, tmp_path):
    """As the real hosts do, whatever the checkpoint."""
    folder, config = runs(algo)
    path, before = folder / "checkpoints" / "last.ckpt", files(folder / "checkpoints")
    with caplog.at_level(logging.INFO):
        _, trainer = fit(config(), ckpt_path=str(path))
    assert caplog.text.count("is finished at step 4; nothing to do") == 1
    assert trainer.global_step == 4 and files(folder / "checkpoints") == before


OTHER = [
    ("mcd", "last", "algo.loss", "ce", "hybrid"),
    ("mcd", "step-2", "algo.coupling", "none", "shared"),
    ("mcd", "last", "algo.delta0", "0.1", "1/16"),
    ("mcd", "step-2", "loader.global_batch_size", "16", "8"),
    ("sdtt", "step-2", "algo.teacher_steps", "3", "2"),
    ("sdtt", "last", "optim.lr", "0.1", "0.003"),
    ("cd4lm", "step-2", "algo.tau0", "0.5", "1.0"),
    ("cd4lm", "last", "trainer.precision", "64-true", "32-true"),
    ("dcd", "step-2", "algo.gamma_max", "2", "1"),
    ("dcd", "last", "seed", "7", "1"),
    ("mdlm", "last", "algo.loss_type", "low_var", "elbo"),
    ("mdlm", "step-2", "data.vocab_size", "290", "300"),
    ("mdlm", "last", "training.finetune_path", "x.ckpt", ""),
    ("ar", "step-2", "model.dropout", "0.5", "0.0"),
    ("duo_base", "last", "noise.eps", "0.1", "0.001"),
]


@pytest.mark.parametrize("algo, name, key, value, was", OTHER)
def test_other_settings_are_refused(runs, algo, name, key, value, was):
    folder, config = runs(algo)
    path, before = folder / "checkpoints" / f"{name}.ckpt", files(folder)
    how = config(f"checkpointing.resume_ckpt_path={path}", f"{key}={value}")
    with pytest.raises(CheckpointError) as error:
        minihost.run(how)
    said = str(error.value)
    assert said.startswith(f"checkpointing.resume_ckpt_path={path} was written by")
    for words in (
        f"{key}={was}",
        f"{key}={value}",
        "hydra.run.dir",
        "checkpointing.resume_from_ckpt=false",
    ):
        assert words in said, said
    after = files(folder)
    assert {k: after[k] for k in before} == before


@pytest.mark.parametrize(
    "algo, other", [("mcd", "sdtt"), ("sdtt", "cd4lm"), ("mdlm", "ar"), ("ar", "mdlm")]
)
def test_another_algo_is_refused(runs, algo, other):
    path = runs(algo)[0] / "checkpoints" / "step-2.ckpt"
    how = runs(other)[1](f"checkpointing.resume_ckpt_path={path}")
    with pytest.raises(CheckpointError, match=f"algo.name={algo}.*algo.name={other}"):
        minihost.run(how)


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
    where = f"checkpointing.save_dir={tmp_path}"
    path = f"checkpointing.resume_ckpt_path={folder / 'checkpoints' / 'step-2.ckpt'}"
    minihost.run(config(where, path, *FREE))
    path = "checkpoints/last.ckpt"
    one, other = (torch.load(x / path, weights_only=True) for x in (folder, tmp_path))
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(other["state_dict"][name], value)


def test_more_rounds_are_the_same_run_and_fewer_are_not(runs, tmp_path):
    folder, config = runs("mcd")
    where = f"checkpointing.save_dir={tmp_path}"
    path = f"checkpointing.resume_ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"
    with pytest.raises(CheckpointError, match="algo.rounds=2.*algo.rounds=1"):
        minihost.run(config(where, path, "algo.rounds=1", "trainer.max_steps=2"))
    minihost.run(config(where, path, "algo.rounds=3", "trainer.max_steps=6"))
    held = torch.load(tmp_path / "checkpoints" / "round-3.ckpt", weights_only=True)
    assert held["global_step"] == 6


def test_a_host_s_own_model_may_be_trained_longer(module_compose, tmp_path):
    where = f"checkpointing.save_dir={tmp_path}"
    config = module_compose("lr_scheduler=cosine_decay_warmup", where)
    for steps in (2, 4):
        minihost.run(changed(config, f"trainer.max_steps={steps}"))
        path = tmp_path / "checkpoints" / "last.ckpt"
        assert torch.load(path, weights_only=True)["global_step"] == steps


def test_a_checkpoint_of_before_keys_and_digests_existed(runs, tmp_path):
    """Of the first releases: nothing to compare is no difference."""
    folder, config = runs("mcd")
    held = torch.load(folder / "checkpoints" / "step-2.ckpt", weights_only=True)
    del held["mdlm_mcd"]["teacher_sha256"]
    made = held["hyper_parameters"]["config"]
    del made["data"]["rows_sha256"], made["algo"]["u_law"], made["algo"]["growth"]
    torch.save(held, tmp_path / "old.ckpt")
    where = f"checkpointing.save_dir={tmp_path}"
    resume = f"checkpointing.resume_ckpt_path={tmp_path / 'old.ckpt'}"
    minihost.run(config(where, resume))
    with pytest.raises(CheckpointError, match="algo.loss=hybrid"):
        minihost.run(config(where, resume, "algo.loss=ce"))


# The teacher --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(module_compose):
    return module_compose(
        "algo=mcd",
        "algo.rounds=1",
        "algo.steps_per_round=4",
        "trainer.max_steps=4",
        "algo.delta0=1/16",
        *EVERY,
    )


@pytest.fixture
def taught(base, teacher_path, tmp_path):
    """A finished run whose teacher is tmp_path/t.ckpt, and configs that go on."""
    teacher = shutil.copy(teacher_path, tmp_path / "t.ckpt")

    def config(name="last", path=teacher, *more):
        at = tmp_path / "run" / "checkpoints" / f"{name}.ckpt"
        return changed(
            base,
            f"algo.teacher_path={path}",
            *more,
            f"checkpointing.save_dir={tmp_path / 'run'}",
            f"checkpointing.resume_ckpt_path={at}",
        )

    minihost.run(config())
    return config, teacher


def spoil(teacher):
    held = torch.load(teacher, weights_only=True)
    held["ema"]["shadow_params"][0].add_(1e-3)
    torch.save(held, teacher)


@pytest.mark.parametrize("name", ["last", "step-2"])
def test_the_same_teacher_may_move_or_go(taught, tmp_path, name):
    config, teacher = taught
    minihost.run(config(name))
    moved = teacher.rename(tmp_path / "moved.ckpt")
    minihost.run(config(name, moved))
    minihost.run(config(name))  # it is in the checkpoint
    with pytest.raises(CheckpointError, match=r"algo.teacher_path=.*t.ckpt, and .*=no"):
        minihost.run(config(name, "no.ckpt"))


@pytest.mark.parametrize("name", ["last", "step-2"])
def test_another_teacher_is_refused_whatever_its_name(taught, tmp_path, name):
    config, teacher = taught
    other = shutil.copy(teacher, tmp_path / "other.ckpt")
    spoil(other)
    with pytest.raises(CheckpointError) as error:
        minihost.run(config(name, other))
    said = str(error.value)
    assert f"algo.teacher_path={teacher} (SHA-256 " in said and str(other) in said
    spoil(teacher)
    with pytest.raises(CheckpointError, match=f"{teacher} .SHA-256.*{teacher} .SHA"):
        minihost.run(config(name))


def test_teachers_are_known_by_their_names_where_no_digest_is(taught, tmp_path):
    config, teacher = taught
    path = tmp_path / "run" / "checkpoints" / "step-2.ckpt"
    held = torch.load(path, weights_only=True)
    assert len(held["mdlm_mcd"].pop("teacher_sha256")) == 64
    torch.save(held, path)
    minihost.run(config("step-2"))
    held["mdlm_mcd"]["teacher_path"] = "org/name"  # on the Hub, and not fetched again
    torch.save(held, path)
    minihost.run(config("step-2", "org/name"))
    with pytest.raises(CheckpointError, match="org/name, and this one has .*org/other"):
        minihost.run(config("step-2", "org/other"))


def test_the_default_teacher_is_one_too(taught, tmp_path):
    """`training.finetune_path` in place of algo.teacher_path: the same file."""
    config, teacher = taught
    more = ("algo.teacher_path=''", f"training.finetune_path={teacher}")
    minihost.run(config("step-2", "x", *more))
    spoil(teacher)
    with pytest.raises(CheckpointError, match="SHA-256"):
        minihost.run(config("step-2", "x", *more))


# The text -----------------------------------------------------------------------------


@pytest.mark.parametrize("algo", ["mcd", "mdlm"])
def test_text_may_move_and_not_change(runs, corpus, tmp_path, algo):
    text = shutil.copy(corpus, tmp_path / "text.txt")

    def config(path, at="step-2"):
        at = tmp_path / "run" / "checkpoints" / f"{at}.ckpt"
        return runs(algo)[1](
            f"data.files=[{path}]",
            f"checkpointing.save_dir={tmp_path / 'run'}",
            f"checkpointing.resume_ckpt_path={at}",
        )

    minihost.run(config(text, at="last"))
    moved = text.rename(tmp_path / "moved.txt")
    minihost.run(config(moved))
    lines = moved.read_text().split("\n\n\n")
    moved.write_text("\n\n\n".join([*lines[1:], lines[0]]))  # in another order
    with pytest.raises(CheckpointError, match="training rows of SHA-256 [0-9a-f]{11}"):
        minihost.run(config(moved))


# What the files say -------------------------------------------------------------------


def test_what_is_exported_is_what_was_trained(taught, tmp_path):
    config, teacher = taught
    other = shutil.copy(teacher, tmp_path / "other.ckpt")
    spoil(other)
    for more in ((other, "algo.loss=ce"), (teacher, "algo.delta0=0.1")):
        with pytest.raises(MCDError):
            minihost.run(config("last", *more))
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    noted = torch.load(path, weights_only=True)["mdlm_mcd"]
    assert (noted["loss"], noted["delta"]) == ("hybrid", 1 / 16)
    assert noted["teacher_path"] == str(teacher)
    export.export(str(path), tmp_path / "out")
    said = json.loads((tmp_path / "out" / "config.json").read_text())["mdlm_mcd"]
    assert (said["loss"], said["teacher_path"], said["delta"]) == ("hybrid", "t.ckpt", 1 / 16)
    assert said["settings"]["loss"] == "hybrid"


def test_a_config_is_left_as_it_was(compose, tmp_path):
    config = compose("trainer.max_steps=1")
    before = config.copy()
    minihost.run(config)
    assert config == before
