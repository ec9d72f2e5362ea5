"""What Hydra, YAML and Lightning refuse: one sentence and status 1; bugs raise."""

import errno

import hydra
import omegaconf
import pytest

from mdlm_mcd.errors import CheckpointError, ConfigError
from mdlm_mcd.hosts import launch
from mdlm_mcd.settings import hydra_errors


def refused(ended, words):
    status, printed = ended
    assert status == 1 and words in printed and "Traceback" not in printed, printed
    assert len(printed) < 900, printed


@pytest.mark.parametrize(
    "override, words",
    [
        ("algo.losss=ce", "Could not override 'algo.losss'. To append to your config use +algo.l"),
        ("algo=mdc", "Could not find 'algo/mdc' Available options in 'algo': ar cd4lm"),
        ("algo=mcd\r", "LexerNoViableAltException: algo=mcd\\r"),
        ("hydra.run.dir=${nope}", "Interpolation key 'nope' not found full_key: hydra.run.dir"),
        ("--config-name=nope", "Cannot find primary config 'nope'"),
        # These pass Hydra.
        ("+algo.losss=ce", "neither by algo=mcd nor by the host: did you mean algo.lo"),
        ("+algo.wholly=new", "nor by the host: take it out"),
        # What is made of the config.
        ("trainer.precision=foo", "Precision 'foo' is invalid"),
        ("+callbacks.x._target_=foo.Bar", "Error locating target 'foo.Bar'"),
        ("data.cache_dir=${nope}", "'nope' not found full_key: data.cache_dir"),
    ],
)
def test_overrides(shell, override, words):
    refused(shell.mcd(override), words)


def test_a_file_that_is_no_yaml(shell):
    shell.write("mine/recipe/tab.yaml", "optim:\n\tlr: 1\n")
    words = "found character '\\t' that cannot start any token"
    refused(shell.host(f"--config-dir={shell.folder}/mine", "+recipe=tab"), words)


def test_lightnings_refusal_while_it_runs(shell):
    key = "callbacks.checkpoint_monitor.monitor=val/x"
    ended = shell.host("trainer.max_steps=1", key, "trainer.val_check_interval=1")
    refused(ended, "could not find the monitored key")


def test_whose_error_it_is():
    """In a real host, OmegaConf's errors are of the host's own code."""
    with pytest.raises(hydra.errors.InstantiationException) as error:
        hydra.utils.instantiate({"_target_": "lightning.Trainer", "foo": 1})
    full = OSError(errno.ENOSPC, "No space left on device", "x.ckpt")
    for refusal, words in (
        (error.value, "argument 'foo'"),
        (full, "The disk takes no more to x.ckpt"),
        (CheckpointError("changed"), "changed"),
    ):
        assert words in str(hydra_errors.explain(refusal))
        sentence = launch.explain(refusal)
        assert sentence.startswith("mdlm-mcd: ") and words in sentence and "\n" not in sentence
    for bug in (ValueError("x"), FileNotFoundError(errno.ENOENT, "x"), KeyError("x")):
        assert hydra_errors.explain(bug) is None and launch.explain(bug) is None
    lookup = omegaconf.errors.InterpolationKeyError("x")
    assert isinstance(hydra_errors.explain(lookup), ConfigError)
    assert launch.explain(lookup) is None
