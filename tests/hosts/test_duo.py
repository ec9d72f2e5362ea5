"""The Duo adapter: detection, marriage, denoiser, and the documented command."""

import subprocess
import sys
import types

import pytest
import torch

from mdlm_mcd import distillers, hosts
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import embedded
from mdlm_mcd.hosts import duo, specs
from mdlm_mcd.losses import subs
from mdlm_mcd.minihost import algo, dataloader
from mdlm_mcd.minihost import main as minihost


def test_the_class_is_made_for_the_host_that_is_loaded():
    cls = hosts.MCD
    assert issubclass(cls, algo.MDLM) and issubclass(cls, distillers.MCD)
    assert cls is hosts.MCD  # one class a host, however often it is asked for
    with pytest.raises(AttributeError):
        _ = hosts.DCM


def test_a_real_host_goes_before_the_embedded_one(monkeypatch):
    clone = types.ModuleType("algo")
    clone.MDLM = type("MDLM", (algo.MDLM,), {})
    monkeypatch.setitem(sys.modules, "algo", clone)
    assert hosts.detect() == (specs.DUO, clone)
    assert issubclass(hosts.MCD, clone.MDLM)


def test_an_unknown_layout_is_refused_with_what_was_looked_for(monkeypatch):
    other = types.ModuleType("algo")
    other.MDLM = type("MDLM", (), {"nll": None, "_loss": None})
    monkeypatch.setitem(sys.modules, "algo", other)
    monkeypatch.delitem(sys.modules, "mdlm_mcd.minihost.algo")
    with pytest.raises(ConfigError) as error:
        hosts.detect()
    for words in (
        "module `algo` lacks MDLM._process_model_input, MDLM._process_sigma",
        "no module `mdlm_mcd.minihost.algo` is loaded",
        "python -m mdlm_mcd.minihost.main algo=mcd",
    ):
        assert words in str(error.value), error.value
    monkeypatch.setitem(sys.modules, "algo", types.ModuleType("algo"))
    with pytest.raises(ConfigError, match="module `algo` lacks MDLM[;)]"):
        hosts.detect()


def test_the_denoiser_is_the_hosts_forward(random_mdlm):
    model = random_mdlm
    z = torch.randint(0, 250, (3, 16))
    rows = torch.rand(3, 16) < 0.6
    rows[1] = False  # a sequence in which nothing is asked for
    z[rows] = model.mask_index
    with torch.no_grad():
        got = duo.denoiser(model)(z, rows)
        expected = model(z, torch.full((3, 1), 0.7))
    full = torch.zeros(3, 16, model.vocab_size)
    full[rows] = got
    torch.testing.assert_close(
        subs(full, z, model.mask_index)[rows], expected[rows], rtol=1e-5, atol=1e-5
    )


@pytest.mark.slow
def test_the_documented_command_with_a_relative_path(compose, corpus, tmp_path):
    """From the user's folder, though Hydra runs the job in another."""
    overrides = ("trainer.max_steps=2", "model.hidden_size=16", "model.n_blocks=1")
    minihost.run(compose(*overrides))
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.rename(tmp_path / "teacher.ckpt")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mdlm_mcd.minihost.main",
            "algo=mcd",
            "algo.teacher_path=teacher.ckpt",
            "algo.loss=kl_fwd",
            "algo.rounds=1",
            "algo.steps_per_round=2",
            "trainer.max_steps=2",
            "data=textfile",
            f"data.files=[{corpus}]",
            "data.vocab_size=300",
            f"data.cache_dir={tmp_path}/cache",
            "model=laptop",
            "model.hidden_size=16",
            "model.n_blocks=1",
            "model.n_heads=2",
            "model.cond_dim=16",
            "model.length=16",
            "loader.global_batch_size=8",
            "trainer.accelerator=cpu",
            "hydra.run.dir=student",
        ],
        cwd=tmp_path,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    student = tmp_path / "student" / "checkpoints" / "round-1.ckpt"
    # It opens as the masked model it is, with the averaged weights.
    model, tokenizer = embedded.open_model(student)
    assert type(model) is algo.MDLM and not model.training
    held = torch.load(student, weights_only=True)
    for p, average in zip(model.parameters(), held["ema"]["shadow_params"], strict=True):
        assert torch.equal(p, average)
    assert held["mdlm_mcd"]["loss"] == "kl_fwd"
    _, loader = dataloader.get_dataloaders(model.config, tokenizer, skip_train=True)
    assert next(iter(loader))["input_ids"].shape[1] == 16
