"""Settings of the embedded host that are of no use: one sentence, before any work."""

import hydra
import pytest
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError

from mdlm_mcd.distillers import noise, preflight
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.hosts import refusals
from mdlm_mcd.minihost import checks, dataloader
from mdlm_mcd.minihost import main as minihost
from mdlm_mcd.minihost.errors import HostError

WRONG = {
    "seed": ("abc", -1, None, 1.5),
    "trainer.devices": (0, -1, "auto", [0, 1]),
    "trainer.max_steps": (0, "abc", None, 1.5),
    "trainer.accumulate_grad_batches": (0, None, "abc", True),
    "trainer.gradient_clip_val": (-1, "abc", float("nan")),
    "trainer.val_check_interval": (0, -1, float("nan")),
    "trainer.limit_train_batches": (0,),
    "loader.global_batch_size": (0, -8, "abc", None, 2.5),
    "loader.batch_size": (0, "abc"),
    "loader.eval_batch_size": (0, -1),
    "loader.num_workers": (-1, "abc"),
    "model.length": (0, 2, "abc", None),
    "model.hidden_size": (0, -32, "abc", 33),
    "model.n_heads": (0, 3),
    "model.n_blocks": (0, "abc"),
    "model.dropout": (1, -0.1, "abc"),
    "model.embed_std": (-1, "abc"),
    "data.vocab_size": ("abc", None),
    "data.cache_dir": (None, ""),
    "optim.lr": (-1, "abc", None, float("nan"), float("inf")),
    "optim.beta1": (1, "abc"),
    "optim.eps": ("abc",),
    "lr_scheduler.num_warmup_steps": (-1, "abc"),
    "training.ema": (2, -1, "abc", None, float("nan")),
    "training.sampling_eps": (1, "abc"),
    "noise.eps": ("abc", float("nan")),
    "algo.time_conditioning": ("abc", None),
    "sampling.steps": (0, "abc", None, 1.5),
    "sampling.num_sample_batches": (0, "abc"),
    "sampling.p_nucleus": (0, 1.1, "abc"),
    "eval.generated_samples_path": ("", None),
    "checkpointing.save_dir": ("", None),
}


@pytest.mark.parametrize("key", WRONG)
def test_out_of_range(compose, key):
    config = compose()
    checks.check(config)
    for value in WRONG[key]:
        changed = config.copy()
        OmegaConf.update(changed, key, value, force_add=True)
        with pytest.raises(HostError, match=rf"^model\.|^{key}=.*: give ") as error:
            checks.check(changed)
        assert "\n" not in str(error.value)


def test_before_anything_is_loaded(shell, monkeypatch):
    def load(*args, **kwargs):
        pytest.fail("loaded")

    monkeypatch.setattr(dataloader, "get_tokenizer", load)
    status, said = shell.host("loader.batch_size=0")
    assert status == 1 and "loader.batch_size=0 is out of range" in said


@pytest.mark.parametrize(
    "override, words",
    [
        # Hydra's own grammar.
        ("algo.teacher_path=a=b.ckpt", "a=b.ckpt cannot be read as key=value (mis"),
        ("data.files=[a,b", "data.files=[a,b cannot be read as key=value"),
        ("logger=null", "~logger leaves it out"),
        ("=5", "Hydra cannot read these overrides"),
        ("+algo=mcd", "a group that the config has already takes no plus"),
        # What is made of the config.
        ("trainer.accelerator=foo", "HostError: trainer cannot be made of its"),
        ("+trainer.foo=1", "unexpected keyword argument 'foo'"),
        ("lr_scheduler._target_=foo.bar", "lr_scheduler cannot be made of its settin"),
        ("+callbacks.x._target_=foo.Bar", "callbacks.x cannot be made of its setting"),
        ("algo._target_=foo.Bar", "algo._target_=foo.Bar names no class (Error load"),
        ("algo._target_=1", "algo._target_=1 names no class"),
        ("algo._target_=mdlm_mcd.hosts", "mdlm_mcd.hosts names no class (Located"),
        ("algo._target_=torch.nn.Linear", "is no LightningModule"),
        ("data.cache_dir=${nope}", "data.cache_dir: the config cannot be read here (I"),
        ("~algo.loss", "algo.loss is not in the config, and is read here"),
        # Ours, of which Python would have said more.
        ("algo.delta0=null", "algo.delta0=None must be a finite number"),
        ("algo.min_entropy=[1]", "algo.min_entropy=[1] is no number"),
        ("algo.min_entropy=true", "algo.min_entropy=True is no number"),
        ("algo.u_step=[1]", "algo.u_step=[1] is no number"),
    ],
)
def test_one_sentence(shell, override, words):
    status, said = shell.mcd(override)
    assert status == 1 and words in said and "Traceback" not in said, said
    assert len(said) < 500, said


def test_a_run_without_a_logger(shell):
    assert shell.mcd("~logger")[0] == 0


def test_lightnings_refusals_while_it_runs(compose):
    refused = checks.MisconfigurationException("no\nmore of it")
    assert str(checks.told(refused)).startswith("Lightning refuses these settings (no)")
    bug = KeyError("x")
    assert checks.told(bug) is bug


def test_in_the_words_of_the_run_command():
    """A real host's own Trainer, made of settings that Lightning refuses."""
    with pytest.raises(hydra.errors.InstantiationException) as error:
        hydra.utils.instantiate({"_target_": "lightning.Trainer", "foo": 1})
    said = refusals.told(error.value, [], ".")
    assert said.startswith("mdlm-mcd: ") and "argument 'foo'" in said
    assert "\n" not in said
    # Those of a host's own code are its bugs.
    assert refusals.told(InterpolationKeyError("x"), [], ".") is None


def test_processes_are_counted_before_they_start(shell):
    status, said = shell.mcd("trainer.devices=9")
    assert status == 1 and "a row for each of 9 processes" in said
    assert "Seed set" not in said or said.count("Seed set") == 1
    config = {"trainer": {"devices": 9}, "loader": {"global_batch_size": 8}}
    sampling = OmegaConf.create({**config, "mode": "sample_eval"})
    preflight.check_processes(sampling)
    with pytest.raises(ConfigError, match="each of 9 processes"):
        preflight.check_processes(OmegaConf.create(config))


@pytest.mark.parametrize("micros", [0, None, "abc", True])
def test_accumulation_that_is_no_number(micros):
    loader = OmegaConf.create({"global_batch_size": 8, "batch_size": 8})
    with pytest.raises(ConfigError, match="accumulate_grad_batches=.* whole number"):
        preflight.check_batch(loader, 1, micros)


@pytest.mark.parametrize("value", ["abc", "1/0", True, [1], {"a": 1}])
def test_what_is_no_number(value):
    with pytest.raises(ConfigError, match="algo.x=.* is no number"):
        noise.number(OmegaConf.create({"x": value}), "x")


def test_minihost_errors_keep_their_class(monkeypatch):
    """A class whose module refuses to load says so in its own sentence."""

    def refuse(target):
        raise HostError("own words")

    monkeypatch.setattr(minihost.hydra.utils, "get_class", refuse)
    with pytest.raises(HostError, match="^own words$"):
        minihost.model_class(OmegaConf.create({"algo": {"_target_": "x.Y"}}))
