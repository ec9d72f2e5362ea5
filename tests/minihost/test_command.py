"""What Hydra, YAML and Lightning refuse: a sentence each, bugs keep their traceback."""

import os
import sys

import pytest

from mdlm_mcd.commands import main
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.hosts import refusals
from mdlm_mcd.minihost import checks
from mdlm_mcd.settings import console, hydra_errors

FILES = {
    "tab": ("optim:\n\tlr: 1\n", ", line 2, cannot be read as a config (found chara"),
    "quote": ("a: 'x\n", ", line 2, cannot be read as a config (found unexpected end"),
    "twice": ("a: 1\na: 2\n", ", line 2, cannot be read as a config (found duplicate"),
    "words": ("defaults: foo\n", "cannot be read as a config (Invalid defaults list"),
    "number": ("defaults:\n  - 5\n", "cannot be read as a config (Unsupported type"),
    "header": ("# @package a b\na: 1\n", "cannot be read as a config (Too many compo"),
    "latin": (b"a: \xe9\n", "cannot be read as a config ('utf-8' codec can't decode"),
    "open": ("a: ${x\n", "a: the config cannot be read here (no viable alternative"),
    "gone": ("defaults:\n  - /none: x\n", "Could not find 'none/x': name a config"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("way", ["group", "primary"])
def test_files_of_the_user(host, name, way):
    text, words = FILES[name]
    path = host.folder / "mine/recipe" / f"{name}.yaml"
    path = path if way == "group" else host.folder / "mine" / path.name
    path.parent.mkdir(parents=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    given = [f"+recipe={name}"] if way == "group" else [f"--config-name={name}"]
    status, said = host(f"--config-dir={host.folder}/mine", *given)
    assert status == 1 and words in said and "Traceback" not in said, said
    assert len(said.strip().splitlines()) == 1
    if "cannot be read as a config" in words:
        assert path.stem in said.partition(" cannot")[0]


@pytest.mark.parametrize(
    "override, words",
    [
        ("hydra.run.dir=${nope}", "hydra.run.dir: the config cannot be read here (Int"),
        ("hydra.verbose=5", "Hydra cannot begin with these settings (AssertionError: as"),
        ("hydra.job.chdir=abc", "hydra.job.chdir=abc (Value 'abc' is not a valid bool"),
        ("--config-name=nope", "Cannot find primary config 'nope'"),
        ("--config-dir=nowhere", "nowhere' not found"),
        ("hydra.run.dir=file/run", "file/run cannot be made (Not a directory): name a"),
        ("a\tb=1", "a\\tb=1 cannot be read as key=value"),
    ],
)
def test_hydras_own_settings(host, override, words):
    (host.folder / "file").touch()
    status, said = host(override)
    assert status == 1 and words in said and "Traceback" not in said, said


@pytest.mark.parametrize(
    "overrides, words",
    [
        # When the trainer is made.
        (["trainer.accelerator=foo"], "invalid accelerator name"),
        (["trainer.precision=foo"], "Precision 'foo' is invalid"),
        (["strategy.name=foo"], "invalid strategy name"),
        (["trainer.limit_val_batches=7.5"], "invalid value 7.5 for limit_val_batches"),
        (["trainer.limit_val_batches=abc"], "not supported between instances of"),
        (["+trainer.profiler=foo"], "it can only be one of"),
        # When it begins.
        (
            ["trainer.val_check_interval=5000", "trainer.check_val_every_n_epoch=1"],
            "Lightning refuses these settings (`val_check_interval` (5000) must be",
        ),
        (["trainer.limit_train_batches=0.0001"], "Try at least `limit_train_batches="),
        (["+trainer.detect_anomaly=foo"], "argument 'enabled' (position 1) must be"),
        (["+trainer.max_epochs=abc"], "(assert isinstance(self.max_epochs, int))"),
        (["+callbacks@callbacks=learning_rate_monitor", "~logger"], "has no logger"),
        (["logger.name=5"], "Lightning refuses these settings (join() argument must"),
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
def test_lightnings_settings(host, overrides, words):
    status, said = host("trainer.max_steps=1", *overrides)
    assert status == 1 and words in said and "Traceback" not in said, said
    assert said.strip().splitlines()[-1].startswith("ConfigError: ")


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
    "where, refused",
    [
        (["mdlm_mcd.minihost.main", "lightning.pytorch.trainer"], True),
        (["main", "lightning.pytorch.trainer", "contextlib", "lightning.fabric"], True),
        (["main", "lightning.pytorch", "torch.autograd"], True),
        # A bug of ours, of a host or of a callback.
        (["main", "lightning.pytorch", "mdlm_mcd.distillers.base"], False),
        (["main", "lightning.pytorch", "algo", "lightning.pytorch"], False),
        (["main", "mdlm_mcd.minihost.main"], False),
    ],
)
def test_whose_error_it_is(where, refused):
    error = raised(where)
    assert isinstance(checks.explain(error), ConfigError) == refused
    assert (refusals.explain(error, [], ".") is not None) == refused


def test_what_torch_says_is_no_matter_of_settings():
    error = raised(["main", "lightning.pytorch", "torch"], RuntimeError)
    assert checks.explain(error) is error


def test_a_bug_in_a_plugin_or_a_job_is_none_of_hydras():
    assert hydra_errors.is_hydras(raised(["main", "hydra.main", "yaml.scanner"]))
    for where in (["hydra.main", "hydra_plugins.x"], ["hydra.core.utils", "algo"]):
        assert not hydra_errors.is_hydras(raised(["main", *where]))


# Control characters -------------------------------------------------------------------


@pytest.mark.parametrize(
    "override, words",
    [
        ("trainer.max_steps=4\r", r"max_steps=4\r has a carriage return at its end: the"),
        ("\rseed=1", r"\rseed=1 has a carriage return: the"),
        ("seed=1\x1b[31m", r"seed=1\x1b[31m has the control character \x1b: leave it"),
        ("data.files=[a\x00b]", r"has the control character \x00"),
        ("seed=\x9b1", r"has the control character \x9b"),
    ],
)
def test_control_characters_of_arguments(host, override, words, capsys):
    status, said = host(override)
    assert status == 1 and words in said, said
    assert not set(said) & {"\r", "\x00", "\x1b", "\x9b"}
    for argv in (["doctor", ".", override], ["run", override], ["export", override]):
        assert main.main(argv) == 1
        assert words in capsys.readouterr().err


def test_a_tab_and_a_line_break_are_none():
    console.check_arguments(["data.separator='a\tb'", "a=[1,\n2]"])
    with pytest.raises(ConfigError):
        console.check_arguments(["fine", "bad\r"])


def test_control_characters_of_a_file(host):
    path = host.folder / "mine/recipe/r.yaml"
    path.parent.mkdir(parents=True)
    path.write_text('# @package _global_\nmode: "tra\\rin\\e[31m"\n')
    status, said = host(f"--config-dir={host.folder}/mine", "+recipe=r")
    assert status == 1 and r"mode=tra\rin\x1b[31m is unknown" in said


# Tracebacks ---------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [["patch", "nowhere"], ["export", "a\r", "b"]])
def test_a_traceback_of_our_command_where_it_is_asked_for(argv, monkeypatch, capsys):
    assert main.main(argv) == 1 and "mdlm-mcd: " in capsys.readouterr().err
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ConfigError):
        main.main(argv)


def test_the_users_wish_outlives_what_hydra_is_told(monkeypatch):
    for wish in (None, "0", "1"):
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        if wish:
            monkeypatch.setenv("HYDRA_FULL_ERROR", wish)
        undo = console.hydra_raises()
        assert os.environ["HYDRA_FULL_ERROR"] == "1"
        undo_in_a_child = console.hydra_raises()
        assert console.wants_traceback() == (wish == "1")
        undo_in_a_child()
        undo()
        assert os.environ.get("HYDRA_FULL_ERROR") == wish
        assert console.wants_traceback() == (wish == "1")


def test_streams_that_cannot_be_changed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", object())
    console.write_any_text()


# What is printed ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "callbacks, more, bar",
    [
        ("checkpoint_every_n_steps,lines", [], False),
        ("lines", ["+trainer.enable_progress_bar=true"], True),
        ("lines,progress", [], True),
        ("checkpoint_every_n_steps", [], True),
    ],
)
def test_lines_replace_the_bar(host, callbacks, more, bar):
    tiny = [o for o in host.tiny if "progress" not in o]
    lines = ["callbacks.lines.every=1"] if "lines" in callbacks else []
    status, said = host(f"callbacks=[{callbacks}]", *lines, *more, tiny=tiny)
    assert status == 0 and ("Epoch 0" in said) == bar, said
    assert ("step 2/2 trainer/loss=" in said) == bool(lines)


@pytest.mark.parametrize("callbacks", ["progress", "checkpoint_every_n_steps,lines"])
def test_a_terminal_that_is_not_utf8(host, callbacks):
    """Bars, Lightning's table of the model, and what stands in a message."""
    tiny = [o for o in host.tiny if "progress" not in o and "summary" not in o]
    status, said = host(f"callbacks=[{callbacks}]", tiny=tiny, encoding="ascii")
    assert status == 0 and "backbone" in said, said
    status, said = host("mode=tr\u00e4in", encoding="ascii")
    assert status == 1 and "ConfigError: " in said and "mode=tr\\xe4in" in said
