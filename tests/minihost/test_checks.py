"""Settings that would silently give a wrong result or lose work."""

import math

import pytest
from omegaconf import OmegaConf

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.minihost import checks
from mdlm_mcd.minihost import main as minihost

WRONG = {
    "seed": ("abc", -1, None, 1.5),
    "trainer.devices": (0, "auto", [0, 1], True),
    "lr_scheduler.num_training_steps": (-1,),  # a cosine to step -1
    "trainer.max_steps": (0, None),
    "trainer.gradient_clip_val": (-1, math.nan),
    "trainer.limit_train_batches": (0,),
    "trainer.val_check_interval": (0, -1, math.nan),
    "loader.global_batch_size": (-8, 2.5),
    "model.length": (2,),
    "data.wrap": ("no", None),
    "training.sampling_eps": (1, -0.1),
    "noise.eps": ("abc", math.nan),
    "model.hidden_size": (33,),
    "training.start": ("count",),
    "sampling.p_nucleus": (0, 1.1),
}


@pytest.mark.parametrize("key", WRONG)
def test_out_of_range(compose, key):
    checks.check(config := compose())
    for value in WRONG[key]:
        OmegaConf.update(config, key, value, force_add=True)
        with pytest.raises(ConfigError, match=rf"^{key}=.*: (give|take) "):
            checks.check(config)


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["algo.parameterization=mean"], ["algo.parameterization=mean", "subs"]),
        (["algo.T=1000"], ["algo.T=1000", "choose one of 0"]),
        (["algo.name=sedd"], ["algo.name=sedd", "mdlm, duo_base, ar"]),
        (["algo.backbone=unet"], ["algo.backbone=unet", "dit"]),
        (["noise.type=linear"], ["noise.type=linear", "log-linear"]),
        (["mode=fid_eval"], ["mode=fid_eval", "train, sample_eval, ppl_eval"]),
        (["mode=ppl_eval"], ["eval.checkpoint_path=(empty)"]),
        (["algo=ar", "algo.causal_attention=false"], ["algo.causal_attention"]),
        (["algo=duo_base", "algo.time_conditioning=false"], ["time_conditioning=False", "True"]),
        (["algo=duo_base", "sampling.predictor=ancestral_cache"], ["sampling.predictor="]),
        (["training.ema=-1"], ["training.ema=-1", "is no decay"]),
        (["training.finetune_path=/"], ["is a folder: name a checkpoint in it"]),
        (["checkpointing.save_dir={file}/x"], ["cannot be written ("]),
        (["mode=sample_eval", "eval.generated_samples_path={file}/x"], ["cannot be written ("]),
        (["mode=sample_eval", "eval.generated_samples_path={file}"], ["was not written by this"]),
    ],
)
def test_refused_before_any_step(compose, tmp_path, monkeypatch, overrides, words):
    monkeypatch.setattr(minihost, "make_trainer", lambda *a, **k: pytest.fail("ran"))
    (tmp_path / "file").write_text("mine")
    overrides = [o.format(file=tmp_path / "file", folder=tmp_path) for o in overrides]
    with pytest.raises(ConfigError) as error:
        minihost.run(compose(*overrides))
    assert all(word in str(error.value) for word in words), error.value


def test_a_batch_that_would_be_rounded_up(compose):
    with pytest.raises(ConfigError, match="global_batch_size=8 is not what .* 9 rows: set it to 9"):
        checks.check(compose("loader.batch_size=3"))
    checks.check(compose("loader.batch_size=3", "mode=ppl_eval"))  # which has batches of its own


@pytest.mark.parametrize("mode", ["train", "sample_eval"])
def test_an_evaluator_is_looked_for_before_steps_and_samples(compose, monkeypatch, mode):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(minihost, "make_trainer", lambda *a, **k: pytest.fail("ran"))
    monkeypatch.setattr(minihost.algo.MDLM, "generate_samples", lambda *a: pytest.fail("drew"))
    monkeypatch.setattr(minihost, "load_from_checkpoint", lambda cls, path, *how: cls(*how))
    judge = "eval.gen_ppl_eval_model_name_or_path=nobody/nothing"
    asked = ("eval.generate_samples=true", "eval.compute_generative_perplexity=true", judge)
    with pytest.raises(ConfigError, match=f"{judge} cannot be loaded .*check the network"):
        minihost.run(compose(f"mode={mode}", *asked))
