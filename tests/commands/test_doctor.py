"""The doctor: what it finds, its remedies, its exit status."""

import importlib.util
import re
import shutil
from pathlib import Path

import fakes
import pytest
import torch

from mdlm_mcd.commands import doctor
from mdlm_mcd.commands import main as cli
from mdlm_mcd.hosts import patches
from mdlm_mcd.hosts.specs import DUO


@pytest.fixture
def host(tmp_path):
    (tmp_path / "clone").mkdir()
    return fakes.duo(tmp_path / "clone")


@pytest.fixture
def teacher(runs, tmp_path):
    return Path(shutil.copy(runs["mdlm"], tmp_path / "teacher.ckpt"))


def found(*args):
    return {f.topic: f for f in doctor.examine(*args)}


def test_outside_of_a_clone_it_is_versions_and_devices(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "ok   versions" in printed and "main.py" not in printed.split("note flash-attn")[0]
    assert "would stop" not in printed
    assert cli.main(["doctor", "."]) == 1


def test_a_host_that_is_ready(host, teacher, capsys):
    patches.patch(host, DUO)
    assert cli.main(["doctor", str(host), f"algo.teacher_path={teacher}", "model.length=16"]) == 0
    printed = capsys.readouterr().out
    for words in ("Duo's spec", "applied", "sees algo=mcd", "torch 2", "step 2", "5 rounds of"):
        assert words in printed, printed
    lines = printed.splitlines()
    assert lines[-1] == "mdlm-mcd run    ready"
    wide = [x for x in lines if len(x) > 88 and str(host.parent) not in x]
    assert len(lines) < 30 and not wide  # one screen, but for a path as long as it is


def test_a_cache_that_cannot_be_made(host, monkeypatch):
    """The hosts' default is a folder of a cluster."""
    monkeypatch.setattr(doctor.os, "access", lambda path, how: path != Path("/"))
    stop = found(host, ["data.cache_dir=/no/such/place"])["data"]
    assert stop.mark == "STOP" and "give data.cache_dir=FOLDER" in stop.text
    assert found(host, [f"data.cache_dir={host}/new/place"])["data"].mark == "ok"


def test_an_unpatched_host(host, capsys):
    assert cli.main(["doctor", str(host)]) == 1
    printed = capsys.readouterr().out
    assert "STOP patch" in printed and "start with `mdlm-mcd run`" in " ".join(printed.split())
    # What else stops main.py depends on the machine.
    assert re.search(r"python main\.py +would stop: [a-z, -]*patch", printed)
    assert re.search(r"mdlm-mcd run +ready", printed)


@pytest.mark.parametrize(
    "override, topic, words",
    [
        ("sampling.predictor=ddpm_cache", "algo", "choose one of ancestral, sparse"),
        ("trainer.precision=bf16-true", "precision", "use bf16"),
        ("algo.rounds=2", "algo", "set trainer.max_steps=20000"),
        ("algo.teacher_path=123", "checkpoint", "algo.teacher_path=123 is no file"),
        ("mode=sample_eval", "checkpoint", "none named"),
        ("training.finetune_path=x.ckpt", "checkpoint", "give an absolute path"),
        ("~sampling", "config", "sampling"),
        ("algo.nothing=1", "config", "nothing"),
        ("algo=nothing", "config", "nothing"),
    ],
)
def test_what_would_stop_a_run(host, override, topic, words):
    patches.patch(host, DUO)
    finding = found(host, [override])[topic]
    assert finding.mark == doctor.STOP and words in finding.text
    assert doctor.report([finding])[1] == 1


@pytest.mark.parametrize("place", ["teacher.ckpt", "${cwd:}/teacher.ckpt"])
def test_a_teacher_is_looked_for_from_the_hosts_folder(host, teacher, place):
    patches.patch(host, DUO)
    teacher.rename(host / "teacher.ckpt")
    finding = found(host, [f"algo.teacher_path='{place}'", "model.length=16"])["checkpoint"]
    assert finding.mark == doctor.OK and "with EMA, step 2" in finding.text


def test_what_the_run_would_refuse_of_a_checkpoint(host, teacher):
    (host / "exported").mkdir()
    evaluated = ["mode=ppl_eval", "eval.checkpoint_path=exported"]
    for given, words in (
        ([f"algo.teacher_path={teacher}", "model.length=32"], "trained on rows of 16 tokens"),
        (evaluated, "is no checkpoint that a host evaluates"),
        ([*evaluated, "algo.backbone=hf_dit"], "give an absolute path"),
    ):
        finding = found(host, given)["checkpoint"]
        assert finding.mark == doctor.STOP and words in finding.text


UNIFORM = {"config": {"algo": {"parameterization": "mean"}}}


def test_a_run_of_another_distiller_from_a_teacher_without_an_average(host, teacher):
    """`algo=dcd` is compared with what DCD needs, and not MCD."""
    other = {"hyper_parameters": UNIFORM, "ema": None}
    torch.save({**torch.load(teacher, weights_only=True), **other}, teacher)
    given = [f"algo.teacher_path={teacher}", "model.length=16"]
    finding = found(host, given)["checkpoint"]
    assert finding.mark == doctor.STOP and "parameterization=mean" in finding.text
    given += ["algo=dcd"]
    findings = found(host, given)
    assert findings["algo"].mark == doctor.OK
    assert "algo.init_from=raw" in findings["checkpoint"].text
    assert found(host, [*given, "algo.init_from=raw"])["checkpoint"].mark == doctor.OK
    finding = found(host, [*given, "sampling.predictor=sparse"])["algo"]
    assert finding.mark == doctor.STOP and "uniform-state models" in finding.text


def test_local_edits_and_no_host(host, tmp_path):
    main = host / "main.py"
    main.write_text(main.read_text().replace("algo.name == 'ar'", "algo.name == 'AR'"))
    findings = doctor.examine(host)
    assert "other lines" in {f.topic: f for f in findings}["main.py"].text
    assert "mdlm-mcd run    would stop: main.py" in doctor.report(findings)[0]
    assert "it lacks main.py" in found(tmp_path)["host"].text


def test_packages_the_host_needs(host):
    """Found through its own modules; not those in `try` or in functions."""
    (host / "utils.py").write_text(
        (host / "utils.py").read_text()
        + "import flash_attn.layers, unheard_of.part\nfrom helpers import one\n"
        "try:\n    import optional_thing\nexcept ImportError:\n    pass\n"
        "def f():\n    import late_thing\n"
    )
    (host / "helpers").mkdir()
    (host / "helpers" / "__init__.py").write_text("from . import one\n")
    (host / "helpers" / "one.py").write_text("import unheard_too\nimport algo\n")
    finding = found(host)["packages"]
    assert finding.mark == doctor.STOP
    assert "imports unheard_of, unheard_too, not installed" in finding.text


def test_a_hidden_plugin_and_a_host_that_wins(host, tmp_path, monkeypatch):
    patches.patch(host, DUO)
    (host / "configs" / "algo" / "mcd.yaml").write_text("name: the host's own\n")
    assert "wins over ours" in found(host)["hydra"].text
    assert found(host)["algo"].mark == doctor.STOP
    from hydra.core.plugins import Plugins

    monkeypatch.setattr(Plugins, "discover", lambda self, kind: [])
    spec = importlib.util.spec_from_file_location("hydra_plugins", tmp_path / "x.py")
    spec.submodule_search_locations = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    finding = found(host)["hydra"]
    assert finding.mark == doctor.STOP and f"delete {spec.origin}" in finding.text
