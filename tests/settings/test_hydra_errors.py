"""What Hydra, YAML and Lightning refuse: one sentence and status 1; bugs raise."""

import hydra
import pytest
from omegaconf.errors import InterpolationKeyError

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.hosts import refusals
from mdlm_mcd.settings import hydra_errors


def refused(ended, words):
    status, said = ended
    assert status == 1 and words in said and "Traceback" not in said, said
    assert len(said) < 900, said


@pytest.mark.parametrize(
    "override, words",
    [
        ("algo.losss=ce", "algo.losss=ce names no key of the config: did you mean algo.loss?"),
        ("loader.globl_batch_size=8", "did you mean loader.global_batch_size?"),
        ("lr=1", "did you mean optim.lr?"),
        ("colour=red", "a new one takes a plus, +colour=red"),
        ("algo=mdc", "algo=mdc is unknown: did you mean algo=mcd? Choose one of ar,"),
        ("+recipe=mcd_labtop", "did you mean recipe=mcd_laptop?"),
        ("~algo.losss", "Could not delete from config"),
        # These pass Hydra.
        ("+algo.losss=ce", "neither by algo=mcd nor by the host: did you mean algo.lo"),
        ("+algo.wholly=new", "nor by the host: take it out"),
        ("+algo.teacher_steps=2", "algo.teacher_steps=2 is read neither"),  # SDTT's
        ("+sampling.u_lwa=iid", "sampling.u_lwa is a key that nothing reads: did you"),
        # Hydra's grammar.
        ("algo.teacher_path=a=b.ckpt", "a=b.ckpt cannot be read as key=value (mis"),
        ("data.files=[a,b", "data.files=[a,b cannot be read as key=value (no viable"),
        ("logger=null", "must be a string or a list. Got NoneType"),
        ("+algo=mcd", "appears more than once in the final defaults list"),
        # Hydra's own settings.
        ("hydra.run.dir=${nope}", "Interpolation key 'nope' not found full_key: hydra.run.dir"),
        ("hydra.verbose=5", "(assert "),
        ("hydra.job.chdir=abc", "Value 'abc' is not a valid bool (type str) full_key: hydra"),
        ("--config-name=nope", "Cannot find primary config 'nope'"),
        ("--config-dir=nowhere", "nowhere' not found"),
        ("hydra.run.dir=/dev/null/run", "Not a directory: '/dev/null/run'"),
        # What is made of the config.
        ("trainer.accelerator=foo", "ConfigError: trainer cannot be made of its"),
        ("+trainer.foo=1", "unexpected keyword argument 'foo'"),
        ("lr_scheduler._target_=foo.bar", "lr_scheduler cannot be made of its settin"),
        ("+callbacks.x._target_=foo.Bar", "callbacks.x cannot be made of its setting"),
        ("algo._target_=foo.Bar", "Error loading 'foo.Bar'"),
        ("data.cache_dir=${nope}", "'nope' not found full_key: data.cache_dir"),
        ("~algo.loss", "full_key: algo.loss"),
    ],
)
def test_overrides(shell, override, words):
    refused(shell.mcd(override), words)


def test_the_right_one_of_two_typos(shell):
    refused(shell.mcd("algo.losss=ce", "optim.lrr=1"), "did you mean algo.loss?")


FILES = {
    "tab": ("optim:\n\tlr: 1\n", "tab.yaml cannot be read as a config (while scanning"),
    "twice": ("a: 1\na: 2\n", "found duplicate key a"),
    "words": ("defaults: foo\n", "cannot be read as a config (Invalid defaults list"),
    "number": ("defaults:\n  - 5\n", "number.yaml cannot be read as a config (Unsupported"),
    "latin": (b"a: \xe9\n", "latin.yaml cannot be read as a config ('utf-8' codec can't"),
    "open": ("a: ${x\n", "no viable alternative at input '${x' full_key: a"),
    "gone": ("defaults:\n  - /none: x\n", "Could not find 'none/x': name a config"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("way", ["group", "primary"])
def test_files_of_the_user(shell, name, way):
    text, words = FILES[name]
    path = shell.write(f"mine/{'recipe/' if way == 'group' else ''}{name}.yaml", text)
    given = f"+recipe={name}" if way == "group" else f"--config-name={name}"
    words = words if way == "group" else words.replace(".yaml", "")
    ended = shell.host(f"--config-dir={shell.folder}/mine", given)
    refused((ended[0], ended[1].replace(".yaml cannot", " cannot")), words.replace(".yaml", ""))
    assert "cannot be read as" not in words or path.stem in ended[1].partition(" cannot")[0]


@pytest.mark.parametrize(
    "overrides, words",
    [
        # When the trainer is made.
        (["trainer.precision=foo"], "Precision 'foo' is invalid"),
        (["trainer.limit_val_batches=7.5"], "invalid value 7.5 for limit_val_batches"),
        (["trainer.limit_val_batches=abc"], "not supported between instances of"),
        # When it begins.
        (
            ["trainer.val_check_interval=5000", "trainer.check_val_every_n_epoch=1"],
            "Lightning refuses these settings (`val_check_interval` (5000) must be",
        ),
        (["trainer.limit_train_batches=0.0001"], "Try at least `limit_train_batches="),
        (["+trainer.detect_anomaly=foo"], "argument 'enabled' (position 1) must be"),
        (["+trainer.max_epochs=abc"], "(assert isinstance(self.max_epochs, int))"),
        (["+callbacks@callbacks=learning_rate_monitor", "~logger"], "has no logger"),
        # While it runs.
        (
            ["callbacks.checkpoint_monitor.monitor=val/x", "trainer.val_check_interval=1"],
            "could not find the monitored key",
        ),
        (
            [
                "callbacks.checkpoint_every_n_steps.filename=5",
                "callbacks.checkpoint_every_n_steps.every_n_train_steps=1",
            ],
            "expected string or bytes-like object",
        ),
    ],
)
def test_lightnings_settings(shell, overrides, words):
    refused(shell.host("trainer.max_steps=1", *overrides), words)


def raised(where, error=ValueError):
    """An error as it is raised by code of the modules named, outermost first."""
    scope = {"error": error}
    for i, name in enumerate(reversed(where)):
        body = "raise error('x')" if i == 0 else f"f{i - 1}()"
        scope = {**scope, "__name__": name}
        exec(f"def f{i}(): {body}", scope)
    with pytest.raises(error) as found:
        scope[f"f{len(where) - 1}"]()
    found.value.__traceback__ = found.value.__traceback__.tb_next
    return found.value


@pytest.mark.parametrize(
    "where, error, known",
    [
        (["mdlm_mcd.minihost.main", "lightning.pytorch.trainer"], ValueError, True),
        (["main", "lightning.pytorch.trainer", "contextlib", "lightning.fabric"], ValueError, True),
        (["main", "lightning.pytorch", "torch.autograd"], ValueError, True),
        (["main", "hydra.main", "yaml.scanner"], ValueError, True),
        # A bug of ours, of a host or of a callback; what torch says in a step.
        (["main", "lightning.pytorch", "mdlm_mcd.distillers.base"], ValueError, False),
        (["main", "lightning.pytorch", "algo", "lightning.pytorch"], ValueError, False),
        (["main", "lightning.pytorch", "torch"], RuntimeError, False),
        (["main", "hydra.core.utils", "algo"], ValueError, False),
        (["main", "mdlm_mcd.minihost.main"], ValueError, False),
    ],
)
def test_whose_error_it_is(where, error, known):
    error = raised(where, error)
    assert isinstance(hydra_errors.explain(error), ConfigError) == known
    assert (refusals.explain(error, [], ".") is not None) == known


def test_in_the_words_of_the_run_command():
    """A real host's own Trainer, made of settings that Lightning refuses."""
    with pytest.raises(hydra.errors.InstantiationException) as error:
        hydra.utils.instantiate({"_target_": "lightning.Trainer", "foo": 1})
    said = refusals.explain(error.value, [], ".")
    assert said.startswith("mdlm-mcd: ") and "argument 'foo'" in said and "\n" not in said
    # Those of a host's own code are its bugs.
    assert refusals.explain(InterpolationKeyError("x"), [], ".") is None
