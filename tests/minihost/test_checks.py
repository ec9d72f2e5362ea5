"""Settings that would silently give a wrong result or lose work."""

import math

import pytest
from omegaconf import OmegaConf

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.minihost import checks, dataloader, metrics
from mdlm_mcd.minihost import main as minihost

WRONG = {
    "seed": ("abc", -1, None, 1.5),
    "trainer.devices": (0, -1, "auto", [0, 1]),
    "trainer.max_steps": (0, "abc", None, 1.5),
    "trainer.accumulate_grad_batches": (0, True),
    "trainer.gradient_clip_val": (-1, math.nan),
    "trainer.val_check_interval": (0, -1, math.nan),
    "trainer.limit_train_batches": (0,),
    "loader.global_batch_size": (-8, "abc", None, 2.5),
    "model.length": (2, "abc", None),
    "model.hidden_size": (-32, 33),
    "model.n_heads": (0, 3),
    "model.tie_word_embeddings": (True,),
    "data.separator": (" ", 5),
    "data.cache_dir": (None, ""),
    "data.wrap": ("no", None),
    "training.sampling_eps": (1, -0.1),
    "noise.eps": ("abc", math.nan),
    "sampling.steps": (0, 1.5),
    "sampling.p_nucleus": (0, 1.1),
    "sampling.use_float64": ("off",),
}


@pytest.mark.parametrize("key", WRONG)
def test_out_of_range(compose, key):
    config = compose()
    checks.check(config)
    for value in WRONG[key]:
        changed = config.copy()
        OmegaConf.update(changed, key, value, force_add=True)
        with pytest.raises(ConfigError, match=rf"^model\.hid|^{key}=.*: give ") as error:
            checks.check(changed)
        assert "\n" not in str(error.value)


def test_before_anything_is_loaded(shell, monkeypatch):
    monkeypatch.setattr(dataloader, "get_tokenizer", lambda *args: pytest.fail("loaded"))
    status, said = shell.host("loader.batch_size=0")
    assert status == 1 and "loader.batch_size=0 is out of range" in said


@pytest.mark.parametrize("ema", [-1, 2, math.nan])
def test_a_decay_outside_of_its_range(compose, ema):
    config = compose()
    config.training.ema = ema
    with pytest.raises(ConfigError, match=r"training\.ema=.* is no decay"):
        minihost.run(config)


# Before hours of work -----------------------------------------------------------------

JUDGE = "eval.gen_ppl_eval_model_name_or_path=nobody/nothing"


def test_an_evaluator_is_looked_for_before_samples_are_drawn(shell, monkeypatch):
    monkeypatch.setattr(minihost, "make_trainer", lambda *a, **k: pytest.fail("ran"))
    monkeypatch.setattr(minihost.algo.MDLM, "generate_samples", lambda *a: pytest.fail("drew"))
    asked = ("eval.compute_generative_perplexity=true", JUDGE)
    for status, said in (
        shell.host("eval.generate_samples=true", *asked),
        shell.sample(*asked),
    ):
        assert status == 1 and f"{JUDGE} cannot be loaded" in said, said
        assert "check the network" in said and "Traceback" not in said
    with pytest.raises(ConfigError, match="nobody/nothing cannot be loaded"):
        metrics.Metrics("nobody/nothing").load_evaluator()


@pytest.mark.parametrize(
    "given, words",
    [
        (["data.tokenizer_name_or_path=nobody/nothing"], "nobody/nothing cannot be loaded ("),
        (["data.files=[nowhere.txt]"], "nowhere.txt matches no file"),
        (["model.length=100000"], "rows of model.length=100000, too few for"),
        (["training.finetune_path=/"], "is a folder: name a checkpoint in it"),
        (["training.finetune_path=nope://x"], "install what its protocol takes"),
        (["checkpointing.save_dir={file}/x"], "cannot be written ("),
        (
            ["mode=sample_eval", "eval.checkpoint_path=x", "eval.generated_samples_path={file}/x"],
            "cannot be written (",
        ),
        (
            ["mode=sample_eval", "eval.checkpoint_path=x", "eval.generated_samples_path={folder}"],
            "is a folder: name a file",
        ),
        (
            ["mode=sample_eval", "eval.checkpoint_path=x", "eval.generated_samples_path={file}"],
            "was not written by this command",
        ),
        (["~algo"], "algo is empty: name one"),
        (
            ["algo.backbone=hf_dit", "mode=ppl_eval", "eval.checkpoint_path={folder}"],
            "cannot be opened as a Hugging Face model",
        ),
    ],
)
def test_in_a_sentence(shell, given, words):
    file = shell.write("file", "mine")
    given = [text.format(file=file, folder=shell.folder) for text in given]
    status, said = shell.host("trainer.max_steps=1", *given)
    assert status == 1 and words in said and "Traceback" not in said, said


def test_fewer_rows_than_a_batch(shell):
    text = shell.write("few.txt", "\n\n\n".join(["the cat sat on a mat"] * 2 + ["a"]))
    status, said = shell.mcd(
        f"data.files=[{text}]",
        f"data.valid_files=[{shell.write('v.txt', 'a ' * 99)}]",
        "loader.global_batch_size=64",
    )
    assert status == 1 and "too few for a step of loader.global_batch_size=64" in said


def test_text_that_may_not_be_read(shell, monkeypatch):
    def forbidden(self, **kwargs):
        raise PermissionError(13, "Permission denied")

    path = shell.write("mine.txt", "text")
    monkeypatch.setattr("pathlib.Path.read_text", forbidden)
    status, said = shell.host(f"data.files=[{path}]")
    assert status == 1 and "mine.txt cannot be read" in said and "Permission denied" in said
