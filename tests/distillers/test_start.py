"""What is refused before a distillation loses work: keys, teachers, trainers, folders."""

from pathlib import Path
from types import SimpleNamespace

import fakes
import lightning
import pytest
import torch
from omegaconf import OmegaConf
from runs import Watch, built, fit, opened

from mdlm_mcd.checkpoints.weights import Weights
from mdlm_mcd.commands import doctor
from mdlm_mcd.distillers import resume, settings, start
from mdlm_mcd.errors import CheckpointError, ConfigError
from mdlm_mcd.hosts import patches
from mdlm_mcd.hosts.specs import DUO
from mdlm_mcd.minihost import main as minihost

ONE = ("algo.init_from=scratch", "algo.rounds=1", "algo.steps_per_round=1", "trainer.max_steps=1")

# Keys ---------------------------------------------------------------------------------

MINE = "# @package _global_\ndefaults: [mcd]\nalgo: {name: mine, losss: ce}\n"


@pytest.mark.parametrize(
    "text, given, stops",
    [
        (MINE, "algo=x", "algo.losss=ce is read neither"),
        (MINE.replace("losss", "loss"), "algo=x", ""),
        # A fork's own key is in another of its files.
        ("name: theirs\nfork: 1\n", "+algo.fork=2", ""),
        ("name: theirs\n", "+algo.fork=2", "algo.fork=2"),
    ],
)
def test_keys_in_files_and_of_forks(tmp_path, text, given, stops):
    host = fakes.duo(tmp_path)
    patches.patch(host, DUO)
    (host / "configs/algo/x.yaml").write_text(text)
    (found,) = [f for f in doctor.examine(host, [given]) if f.topic == "algo"]
    assert (found.mark == doctor.STOP) == bool(stops) and stops in found.text


def test_a_network_in_eval_mode_is_trained_with_dropout(config):
    """As `transformers` opens one, of Duo's hf_dit; a resumed run has no validation before."""

    model = built(given := config(*ONE))
    model.backbone.eval()
    fit(given, watch := Watch(), model=model)
    assert model.backbone.training and not any(watch.teacher_modes)


# Teachers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "algo, section, key, value, words",
    [
        ("mcd", "model", "length", 8, "on rows of 8 tokens: set model.length=8"),
        ("mcd", "algo", "time_conditioning", True, "time_conditioning=.*set algo.time_cond"),
        ("dcd", "algo", "name", "mdlm", "trained under parameterization=subs.*uniform-state"),
    ],
)
def test_teachers(config, teacher_path, tmp_path, algo, section, key, value, words):
    """What torch does not refuse by the weights' shapes."""
    content = opened(teacher_path)
    content["hyper_parameters"]["config"][section][key] = value
    torch.save(content, tmp_path / "x.ckpt")
    model = built(config(f"algo.teacher_path={tmp_path / 'x.ckpt'}", algo=algo))
    with pytest.raises(CheckpointError, match=words):
        start.load_teacher(model)


def test_a_teacher_of_another_tokenizer(caplog):
    data = {"tokenizer_name_or_path": "bpe", "vocab_size": 300, "files": ["a.txt"]}
    weights = Weights({}, config={"data": data})
    for given in (weights, Weights({})):
        start.warn_of_other_tokens(given, "t", OmegaConf.create(data))
    assert not caplog.records
    for key, value in (("tokenizer_name_or_path", "gpt2"), ("files", ["b.txt"])):
        start.warn_of_other_tokens(weights, "t", OmegaConf.create(data | {key: value}))
        assert f"t was trained with data.{key}=" in caplog.text


@pytest.mark.parametrize("bump", [0.05, 0.0, float("nan")])
def test_a_schedule_that_turns_back(bump):
    """With good ends: up again, flat, or nowhere between two of its times."""

    def alpha(t):
        inside = (t >= 0.5) & (t < 0.51)
        return torch.where(inside, 1 - t + 1 / 64 + bump, 1 - t)

    settings.check_schedule(lambda t: 1 - t, "linear", "mcd")
    with pytest.raises(ConfigError, match="algo=mcd needs it to fall .* without a rise"):
        settings.check_schedule(alpha, "linear", "mcd")


def test_a_schedule_and_a_mask_of_the_host(config):
    """The public hosts take a mask behind `vocab_size` for one of the vocabulary."""
    with pytest.raises(ConfigError, match="noise.type=log-linear keeps a token visible"):
        built(config("noise.eps=2"))
    model = built(config())
    model.mask_index = 301
    with pytest.raises(ConfigError, match="data.tokenizer_name_or_path=bpe has mask"):
        model.check_model()


# Trainers and folders -----------------------------------------------------------------


@pytest.mark.parametrize(
    "strategy, overrides, words",
    [
        ("FSDPStrategy", ("training.ema=0.9",), "training.ema=0.9 .*training.ema=0, or"),
        ("FSDPStrategy", ("eval.generate_samples=true",), "eval.generate_samples=true.*=ddp"),
        ("FSDPStrategy", ("+strategy.state_dict_type=sharded",), "=sharded .*leave it out"),
        ("DDPStrategy", ("algo.teacher_placement=sharded",), "=sharded .*set strategy=fsdp"),
        ("ModelParallelStrategy", (), "strategy=ModelParallelStrategy.*strategy=ddp"),
        ("DDPStrategy", ("loader.batch_size=3",), "makes 12; set loader.global_batch_size=12"),
        ("DDPStrategy", ("loader.batch_size=1",), "makes 4; set loader.global_batch_size=4"),
        ("DDPStrategy", (), None),
    ],
)
def test_trainers_that_cannot_work(config, strategy, overrides, words):
    """On two processes, with two micro-batches each."""
    kind = getattr(lightning.pytorch.strategies, strategy, None)
    if kind is None:
        pytest.skip(f"this Lightning has no {strategy}")
    trainer = SimpleNamespace(strategy=kind(), world_size=2, accumulate_grad_batches=2)
    given = config("training.ema=0", "loader.batch_size=2", *overrides)
    if words is None:
        return settings.check_trainer(trainer, given)
    with pytest.raises(ConfigError, match=words):
        settings.check_trainer(trainer, given)


def test_a_folder_that_may_not_be_written(config, tmp_path):
    (tmp_path / "checkpoints").touch()
    with pytest.raises(ConfigError, match=f"save_dir={tmp_path} cannot be written"):
        fit(config())


def test_a_checkpoint_to_go_on_from_that_is_not_there(config):
    """A host has begun anew by the time that it makes our model."""
    alone = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)
    given = config("checkpointing.resume_ckpt_path=lost.ckpt")
    with pytest.raises(ConfigError, match="path=lost.ckpt is not there: .*begin anew"):
        resume.check_same_start(given, alone)
    for ours in (config(), config("checkpointing.resume_from_ckpt=false")):
        resume.check_same_start(ours, alone)  # at a job's first start
    # On a disk of one machine of several.
    some = SimpleNamespace(reduce_boolean_decision=lambda decision, all: not all)
    with pytest.raises(CheckpointError, match="there for some processes and not for others"):
        resume.check_same_start(config(), some)


def test_a_checkpoint_that_lies_behind_the_folders_own(config, tmp_path):
    """Started again by the same command, the run would go back each time, over its own work."""
    alone = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)
    old, last = tmp_path / "round-1.ckpt", tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    given = config(f"checkpointing.resume_ckpt_path={old}")
    torch.save({"global_step": 3}, old)
    for check in (lambda: resume.check_same_start(given, alone), lambda: minihost.run(given)):
        torch.save({"global_step": 5}, last)
        with pytest.raises(ConfigError, match=r"round-1.ckpt stands at step 3, .*last.ckpt, .* 5"):
            check()
    torch.save({"global_step": 2}, last)
    resume.check_same_start(given, alone)


@pytest.mark.parametrize("name", ["", "folder", "model.safetensors"])
def test_what_a_host_does_not_evaluate_is_refused(config, tmp_path, name):
    (tmp_path / "folder").mkdir()
    given, path = config("mode=ppl_eval"), str(tmp_path / name) if name else ""
    with pytest.raises(CheckpointError, match="=.* is no checkpoint that a host evaluates"):
        minihost.model_class(given).load_from_checkpoint(path, config=given)


def test_a_checkpoint_is_found_from_the_launch_folder(config, tmp_path, monkeypatch):
    """After Hydra has moved to the run's own, as hosts let it."""
    fit(config(*ONE))
    (tmp_path / "moved").mkdir()
    monkeypatch.chdir(tmp_path / "moved")
    monkeypatch.setattr(start, "to_absolute_path", lambda x: f"{tmp_path}/{x}")
    given = config(*ONE, "mode=sample_eval")
    path, how = Path("checkpoints", "round-1.ckpt"), {"tokenizer": built(given).tokenizer}
    assert minihost.model_class(given).load_from_checkpoint(str(path), config=given, **how)
