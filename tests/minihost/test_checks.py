"""Settings that would silently give a wrong result or lose work."""

import math

import pytest
from omegaconf import OmegaConf

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.minihost import checks, dataloader
from mdlm_mcd.minihost import main as minihost

WRONG = {
    "seed": ("abc", -1, None, 1.5),
    "trainer.devices": (0, -1, "auto", [0, 1]),
    "lr_scheduler.num_training_steps": (-1,),  # a cosine to step -1
    "trainer.max_steps": (0, "abc", None, 1.5),
    "trainer.accumulate_grad_batches": (0, True),
    "trainer.gradient_clip_val": (-1, math.nan),
    "trainer.val_check_interval": (0, -1, math.nan),
    "trainer.limit_train_batches": (0,),
    "loader.global_batch_size": (-8, "abc", None, 2.5),
    "model.length": (2, "abc", None),
    "model.hidden_size": (-32, 33),
    "model.n_heads": (0, 3),
    "data.separator": (" ", 5),
    "data.cache_dir": (None, ""),
    "data.wrap": ("no", None),
    "training.sampling_eps": (1, -0.1),
    "training.start": ("count",),
    "noise.eps": ("abc", math.nan),
    "sampling.steps": (0, 1.5),
    "sampling.p_nucleus": (0, 1.1),
    "sampling.use_float64": ("off",),
}


@pytest.fixture(scope="module")
def config(module_compose):
    return module_compose()


@pytest.mark.parametrize("key", WRONG)
def test_out_of_range(config, key):
    checks.check(config)
    for value in WRONG[key]:
        changed = config.copy()
        OmegaConf.update(changed, key, value, force_add=True)
        with pytest.raises(ConfigError, match=rf"^model\.hid|^{key}=.*: give ") as error:
            checks.check(changed)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["algo.parameterization=mean"], ["algo.parameterization=mean", "subs"]),
        (["algo.T=1000"], ["algo.T=1000", "choose one of 0"]),
        (["sampling.predictor=analytic"], ["sampling.predictor=analytic"]),
        (["algo.name=sedd"], ["algo.name=sedd", "mdlm, duo_base, ar"]),
        (["algo.backbone=unet"], ["algo.backbone=unet", "dit"]),
        (["noise.type=linear"], ["noise.type=linear", "log-linear"]),
        (["mode=fid_eval"], ["mode=fid_eval", "train, sample_eval, ppl_eval"]),
        (["mode=ppl_eval"], ["eval.checkpoint_path=(empty)"]),
        (["algo=ar", "algo.causal_attention=false"], ["algo.causal_attention"]),
        (["algo=duo_base", "algo.time_conditioning=false"], ["time_conditioning=False", "True"]),
        (["algo=duo_base", "sampling.predictor=ancestral_cache"], ["sampling.predictor="]),
        (["training.ema=-1"], ["training.ema=-1", "is no decay"]),
        (["~algo"], ["algo is empty: name one"]),
        (["training.finetune_path=/"], ["is a folder: name a checkpoint in it"]),
        (["training.finetune_path=nope://x"], ["install what its protocol takes"]),
        (["checkpointing.save_dir={file}/x"], ["cannot be written ("]),
        (["mode=sample_eval", "eval.generated_samples_path={file}/x"], ["cannot be written ("]),
        (["mode=sample_eval", "eval.generated_samples_path={file}"], ["was not written by this"]),
        (
            ["algo.backbone=hf_dit", "mode=ppl_eval", "eval.checkpoint_path={folder}"],
            ["cannot be opened as a Hugging Face model"],
        ),
    ],
)
def test_refused_before_any_step(compose, tmp_path, monkeypatch, overrides, words):
    monkeypatch.setattr(minihost, "make_trainer", lambda *a, **k: pytest.fail("ran"))
    (tmp_path / "file").write_text("mine")
    overrides = [o.format(file=tmp_path / "file", folder=tmp_path) for o in overrides]
    with pytest.raises(ConfigError) as error:
        minihost.run(compose(*overrides))
    assert all(word in str(error.value) for word in words), error.value


def test_a_batch_that_would_be_rounded_up(config):
    changed = OmegaConf.merge(config, OmegaConf.create({"loader": {"batch_size": 3}}))
    with pytest.raises(ConfigError, match="global_batch_size=8 is not what .* 9 rows: set it to 9"):
        checks.check(changed)
    changed.mode = "ppl_eval"  # which has batches of its own
    checks.check(changed)


def test_before_anything_is_loaded(compose, monkeypatch):
    monkeypatch.setattr(dataloader, "get_tokenizer", lambda *args: pytest.fail("loaded"))
    with pytest.raises(ConfigError, match="loader.batch_size=0 is out of range"):
        minihost.run(compose("loader.batch_size=0"))


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
