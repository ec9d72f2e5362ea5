"""Settings of the embedded host that are of no use: one sentence, before any work."""

import shutil

import hydra
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError

from mdlm_mcd.distillers import rng, validate_run
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.hosts import refusals
from mdlm_mcd.minihost import checks, dataloader
from mdlm_mcd.minihost import main as minihost

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
        with pytest.raises(ConfigError, match=rf"^model\.|^{key}=.*: give ") as error:
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
        ("trainer.accelerator=foo", "ConfigError: trainer cannot be made of its"),
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
    refused = MisconfigurationException("no\nmore of it")
    assert str(checks.explain(refused)).startswith("Lightning refuses these settings (no)")
    bug = KeyError("x")
    assert checks.explain(bug) is bug


def test_in_the_words_of_the_run_command():
    """A real host's own Trainer, made of settings that Lightning refuses."""
    with pytest.raises(hydra.errors.InstantiationException) as error:
        hydra.utils.instantiate({"_target_": "lightning.Trainer", "foo": 1})
    said = refusals.explain(error.value, [], ".")
    assert said.startswith("mdlm-mcd: ") and "argument 'foo'" in said
    assert "\n" not in said
    # Those of a host's own code are its bugs.
    assert refusals.explain(InterpolationKeyError("x"), [], ".") is None


def test_processes_are_counted_before_they_start(shell):
    status, said = shell.mcd("trainer.devices=9")
    assert status == 1 and "a row for each of 9 processes" in said
    assert "Seed set" not in said or said.count("Seed set") == 1
    config = {"trainer": {"devices": 9}, "loader": {"global_batch_size": 8}}
    sampling = OmegaConf.create({**config, "mode": "sample_eval"})
    validate_run.check_processes(sampling)
    with pytest.raises(ConfigError, match="each of 9 processes"):
        validate_run.check_processes(OmegaConf.create(config))


@pytest.mark.parametrize("micros", [0, None, "abc", True])
def test_accumulation_that_is_no_number(micros):
    loader = OmegaConf.create({"global_batch_size": 8, "batch_size": 8})
    with pytest.raises(ConfigError, match="accumulate_grad_batches=.* whole number"):
        validate_run.check_batch(loader, 1, micros)


@pytest.mark.parametrize("value", ["abc", "1/0", True, [1], {"a": 1}])
def test_what_is_no_number(value):
    with pytest.raises(ConfigError, match="algo.x=.* is no number"):
        rng.number(OmegaConf.create({"x": value}), "x")


def test_minihost_errors_keep_their_class(monkeypatch):
    """A class whose module refuses to load says so in its own sentence."""

    def refuse(target):
        raise ConfigError("own words")

    monkeypatch.setattr(minihost.hydra.utils, "get_class", refuse)
    with pytest.raises(ConfigError, match="^own words$"):
        minihost.model_class(OmegaConf.create({"algo": {"_target_": "x.Y"}}))


# Before hours of work -----------------------------------------------------------------


@pytest.mark.parametrize(
    "given, words",
    [
        (["algo.losss=ce"], "did you mean algo.loss?"),
        (["+algo.losss=ce"], "did you mean algo.loss?"),
        (["algo.rounds=2"], "set trainer.max_steps=2"),
        (["algo.init_from=ema"], "algo.teacher_path is empty"),
        (["algo.init_from=ema", "algo.teacher_path=none.ckpt"], "is no file: name a"),
        (["algo.init_from=ema", "algo.teacher_path=5"], "teacher_path=5 is no path"),
        (["algo.init_from=ema", "algo.teacher_path=[a]"], "is no path: name one"),
        (["sampling.greedy_tail=-1"], "greedy_tail=-1 must not be negative"),
        (["sampling.temperature=0"], "temperature=0 must be positive"),
        (["sampling.u_law=lattce"], "u_law=lattce is unknown"),
        (["sampling.schedule=[1,2,3]"], "between 128 steps: give 128 positive"),
    ],
)
def test_before_the_text_is_read(shell, monkeypatch, given, words):
    """Tokenizing a corpus takes hours, and a host does it first."""
    monkeypatch.setattr(dataloader, "get_dataloaders", lambda *args: pytest.fail("read the text"))
    status, said = shell.mcd(*given)
    assert status == 1 and words in said and "Traceback" not in said, said


def test_a_teacher_that_is_gone_does_not_stop_a_resumed_run(shell):
    teacher = shutil.copy(shell.teacher, shell.folder / "teacher.ckpt")
    assert shell.from_teacher(teacher)[0] == 0
    teacher.unlink()
    status, said = shell.from_teacher(teacher)
    assert status == 0, said


def test_the_trial_draw_leaves_the_global_generator_alone(shell, compose):
    from mdlm_mcd.hosts import sampling as samplers

    before = torch.get_rng_state()
    for more in ([], ["sampling.predictor=locked", "sampling.u_law=lattice"]):
        samplers._try_options(compose("algo=mcd", *more).sampling)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_evaluator_for_samples_in_training_is_looked_for_first(shell, monkeypatch):
    monkeypatch.setattr(minihost, "make_trainer", lambda *a, **k: pytest.fail("ran"))
    status, said = shell.mcd(
        "eval.generate_samples=true",
        "eval.compute_generative_perplexity=true",
        "eval.gen_ppl_eval_model_name_or_path=nobody/nothing",
    )
    assert status == 1 and "nobody/nothing cannot be loaded" in said


def test_samples_are_not_drawn_for_a_folder(shell):
    status, said = shell.host(
        "mode=sample_eval",
        f"eval.checkpoint_path={shell.teacher}",
        f"eval.generated_samples_path={shell.folder}",
    )
    assert status == 1 and "is a folder: name a file" in said


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
    assert status == 1 and "mine.txt cannot be read" in said
    assert "Permission denied" in said


def test_a_teacher_that_diverged(shell):
    def spoil(held):
        held["ema"]["shadow_params"][0].fill_(float("nan"))

    status, said = shell.from_teacher(shell.changed(spoil))
    assert status == 1 and "holds weights that are not finite" in said


@pytest.mark.parametrize(
    "key, value, warns",
    [
        ("data.vocab_size", 300, False),  # as it is
        ("data.tokenizer_name_or_path", "gpt2", True),
        ("data.files", ["elsewhere.txt"], True),
    ],
)
def test_a_teacher_of_another_tokenizer(shell, caplog, key, value, warns):
    assert shell.from_teacher(shell.told(key, value))[0] == 0
    assert (f"was trained with {key}=" in caplog.text) == warns


# The other commands -------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--temperature", "nan"], "the temperature positive"),
        (["--u-law", "foo"], "u_law=foo is unknown"),
        (["--u-law", "iid:3"], "is not supported with u_law=iid"),
        (["--device", "foo"], "--device foo cannot be used"),
        (["--host", "/nope"], "--host /nope is no folder"),
    ],
)
def test_a_sweep_before_a_model_is_opened(shell, monkeypatch, argv, words):
    from mdlm_mcd.evaluation import candidates

    monkeypatch.setattr(candidates, "open_model", lambda *args: pytest.fail("opened"))
    status, said = shell.sweep(*argv)
    assert status == 1 and words in said and "Traceback" not in said, said


def test_a_sweep_of_no_steps(shell):
    status, said = shell.sweep("--steps", "")
    assert status == 2 and "--steps: invalid list of ints" in said


def test_a_masked_model_is_no_evaluator(shell):
    status, said = shell.sweep("--evaluator", shell.teacher)
    assert status == 1 and "gives no text a likelihood from left to right" in said


def test_the_tokenizer_of_the_embedded_host_by_name(shell):
    assert shell.sweep("--tokenizer", "bpe")[0] == 0


def test_reports_of_what_is_no_file(shell):
    """A pipe never ends; this one would end the test by its timeout."""
    import os

    os.mkfifo(shell.folder / "pipe.jsonl")
    for path in (shell.folder / "pipe.jsonl", "/dev/zero"):
        status, said = shell.command("report", path)
        assert status == 1 and "cannot be read (it is no file)" in said
    status, said = shell.sweep("--out", shell.folder / "pipe.jsonl")
    assert status == 1 and "cannot be read (it is no file)" in said
    rows = shell.write("rows.jsonl")
    status, said = shell.command("report", rows, "--out", "")
    assert status == 1 and "is a folder: name a file" in said


@pytest.mark.parametrize("seed", ["-1", str(2**32)])
def test_seeds_of_a_demo(shell, seed):
    status, said = shell.command("demo", "--out", shell.folder / "d", "--seed", seed)
    assert status == 1 and f"--seed {seed}: give a whole number" in said
    assert not (shell.folder / "d").exists()


def test_a_demo_in_a_folder_of_something_else(shell):
    shell.write("demo.json", "[1]")
    status, said = shell.command("demo", "--out", shell.folder, "--quick")
    assert status == 1 and "holds a demo with another recipe, seed" in said


def test_doctor_tells_what_hydra_asserts(shell):
    import fakes

    status, said = shell.command("doctor", fakes.duo(shell.folder), "algo=null")
    assert status == 1 and "Hydra cannot read these overrides" in said
