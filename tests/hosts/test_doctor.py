"""The doctor: what it finds, its remedies, its exit status."""

import importlib.util

import fakes
import pytest
import torch

from mdlm_mcd import cli
from mdlm_mcd.hosts import doctor, patches
from mdlm_mcd.hosts.layouts import DUO
from mdlm_mcd.minihost import algo, dataloader


@pytest.fixture
def host(tmp_path):
    (tmp_path / "clone").mkdir()
    return fakes.duo(tmp_path / "clone")


@pytest.fixture
def teacher(compose, tmp_path):
    """A checkpoint as a host writes it, EMA and all."""
    config = compose()
    model = algo.MDLM(config, dataloader.get_tokenizer(config))
    held = {"state_dict": model.state_dict(), "global_step": 7, "loops": {}}
    held["ema"] = model.ema.state_dict()
    torch.save(held, tmp_path / "teacher.ckpt")
    return tmp_path / "teacher.ckpt"


def found(*args):
    return {f.topic: f for f in doctor.examine(*args)}


def test_a_host_that_is_ready(host, teacher, capsys):
    patches.patch(host, DUO)
    assert cli.main(["doctor", str(host), f"algo.teacher_path={teacher}"]) == 0
    said = capsys.readouterr().out
    for words in (
        "Duo's layout as on branch main", "applied", "sees algo=mcd", "torch 2",
        "step 7", "samples in float64",
        "sampling.predictor=sparse", "noise.type=log-linear",
        "5 x 10000", "Nothing stops a run.",
    ):  # fmt: skip
        assert words in said, said
    lines = said.splitlines()
    assert len(lines) < 30 and max(map(len, lines)) <= 88  # one screen


def test_an_unpatched_host(host, capsys):
    assert cli.main(["doctor", str(host)]) == 1
    said = capsys.readouterr().out
    assert "STOP patch" in said and "start with `mdlm-mcd run`" in " ".join(
        said.split()
    )
    assert "Would stop a run: patch." in said


@pytest.mark.parametrize(
    "override, topic, words",
    [
        (
            "sampling.predictor=ancestral",
            "predictor",
            "choose one of sparse, first_hit",
        ),
        ("trainer.precision=bf16-true", "precision", "use bf16"),
        ("algo.rounds=2", "rounds", "set trainer.max_steps=20000"),
        ("algo.delta0=x", "rounds", "algo.delta0=x is no number"),
        ("algo.teacher_path=none.ckpt", "teacher", "none.ckpt"),
        ("algo.nothing=1", "config", "nothing"),
        ("algo=nothing", "config", "nothing"),
    ],
)
def test_what_would_stop_a_run(host, override, topic, words):
    patches.patch(host, DUO)
    finding = found(host, [override])[topic]
    assert finding.mark == doctor.STOP and words in finding.text
    assert doctor.report([finding])[1] == 1


def test_a_teacher_without_an_average(host, teacher):
    patches.patch(host, DUO)
    held = torch.load(teacher, weights_only=True)
    del held["ema"]
    torch.save(held, teacher)
    given = [f"algo.teacher_path={teacher}"]
    assert "algo.init_from=raw" in found(host, given)["teacher"].text
    assert found(host, [*given, "algo.init_from=raw"])["teacher"].mark == doctor.OK


def test_local_edits_and_no_host(host, tmp_path):
    main = host / "main.py"
    main.write_text(main.read_text().replace("algo.name == 'ar'", "algo.name == 'AR'"))
    assert "local edits" in found(host)["patch"].text
    assert "it lacks main.py" in found(tmp_path)["host"].text


def test_a_hidden_plugin_and_a_host_that_wins(host, tmp_path, monkeypatch):
    patches.patch(host, DUO)
    (host / "configs" / "algo" / "mcd.yaml").write_text("name: the host's own\n")
    assert "wins over ours" in found(host)["hydra"].text
    from hydra.core.plugins import Plugins

    monkeypatch.setattr(Plugins, "discover", lambda self, kind: [])
    spec = importlib.util.spec_from_file_location("hydra_plugins", tmp_path / "x.py")
    spec.submodule_search_locations = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    finding = found(host)["hydra"]
    assert finding.mark == doctor.STOP and "delete that file" in finding.text
