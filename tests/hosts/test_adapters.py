"""The adapters: which host it is, its model, its configs."""

import copy
import sys
import types

import fakes
import hydra
import pytest
import torch
from fakes import DUO, MDLM
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from runs import distil
from shell import SHORT

from hydra_plugins import mdlm_mcd_searchpath as plugin
from mdlm_mcd import distillers, hosts
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.hosts import specs
from mdlm_mcd.minihost import algo
from mdlm_mcd.minihost import main as minihost
from mdlm_mcd.minihost.trainer_base import TrainerBase

# Which host it is ---------------------------------------------------------------------


def test_the_class_is_made_for_the_host_that_is_loaded(monkeypatch):
    cls = hosts.MCD
    assert issubclass(cls, algo.MDLM) and issubclass(cls, distillers.MCD)
    assert cls is hosts.MCD  # one class a host, however often it is asked for
    with pytest.raises(AttributeError):
        _ = hosts.DCM
    # A real host goes before the embedded one.
    clone = types.ModuleType("algo")
    clone.MDLM = type("MDLM", (algo.MDLM,), {})
    for module, spec in ((fakes.diffusion, specs.MDLM), (clone, specs.DUO)):
        monkeypatch.setitem(sys.modules, module.__name__, module)
        assert hosts.detect() == (spec, module)
        assert issubclass(hosts.MCD, getattr(module, spec.models["subs"]))


def test_a_host_of_another_layout_or_without_such_models_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="needs a uniform-state model, and MDLM's code has none"):
        hosts.resolve_model_class(distillers.DCD, specs.MDLM)
    monkeypatch.setitem(sys.modules, "algo", types.ModuleType("algo"))
    monkeypatch.delitem(sys.modules, "mdlm_mcd.minihost.algo")
    words = r"`algo` lacks MDLM, .*no module `mdlm_mcd\.minihost\.algo` is loaded"
    with pytest.raises(ConfigError, match=words):
        hosts.detect()


# Its model ----------------------------------------------------------------------------


def test_the_same_step_in_both_families(compose):
    x0 = torch.randint(0, 250, (8, 16))
    batch = {"input_ids": x0, "attention_mask": torch.ones_like(x0)}
    # As in `data=text8-crop`: rows of twice the length, of which MDLM takes some.
    twice = {k: v.repeat(1, 2) for k, v in batch.items()}
    found = []
    for family, given in ((DUO, batch), (MDLM, twice)):
        model = family.student(compose, "model.dropout=0")
        model.teacher.snapshot(model.backbone, 0)
        parts = distil(model, *model.host_inputs(given, None)[:2], 0)
        parts.loss.backward()
        found.append((parts, [p.grad for p in model.backbone.parameters()]))
    # Without a mask of padding rows count whole.
    assert DUO.student(compose).host_inputs({"input_ids": x0}, None)[1].sum() == x0.numel()
    (one, slopes), (other, wanted) = found
    assert one.distil_rows == other.distil_rows > 20
    torch.testing.assert_close(one.loss, other.loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(slopes, wanted, rtol=1e-4, atol=1e-6)


@fakes.each
def test_labels_of_a_users_batches_mark_a_context(compose, family, monkeypatch):
    """-100 where a token is given; padding, which has it as well, is none."""
    monkeypatch.delattr(TrainerBase, "on_before_batch_transfer")  # real hosts have none
    model, seen = family.student(compose, *SHORT), []
    ids, mask = torch.randint(0, 250, (8, 16)), torch.ones(8, 16, dtype=torch.long)
    mask[:, 12:] = 0
    labels = ids.where((torch.arange(16) >= 5) & (mask > 0), -100)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    loader = torch.utils.data.DataLoader([batch], batch_size=None)
    distil, model.host_record = model.distil, lambda *_: None
    model.distil = lambda *args: [seen.append(args), distil(*args)][1]
    minihost.make_trainer(model.config).fit(model, loader)
    ((_, x0, valid, condition, noise),) = seen
    place = torch.arange(16).expand(8, 16)
    assert torch.equal(x0, ids) and torch.equal(noise.given, place < 5)
    assert torch.equal(valid > 0, (place >= 5) & (place < 12)) and condition is None


# Its configs --------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """The keys of MDLM's config that ours meet; patched (an `algo` entry)."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "config.yaml").write_text(
        "defaults:\n- _self_\n- /algo: null\n\nparameterization: sedd\nbackbone: dit\nT: 100\n"
        "sampling: {predictor: analytic, steps: 128}\ntraining: {ema: 0.9999}\n"
        "trainer: {max_steps: 1}\n"
    )
    (tmp_path / "diffusion.py").touch()
    (tmp_path / "main.py").write_text("hydra.utils.get_class(config.algo._target_)\n")
    return tmp_path


def composed(folder, *overrides):
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(folder / "configs"), version_base=None):
        return hydra.compose("config", overrides=list(overrides))


def test_the_config_speaks_the_hosts_keys(folder, monkeypatch):
    config = composed(folder, "algo=mcd")
    assert config.algo._target_ == "mdlm_mcd.hosts.MCD"
    assert (config.parameterization, config.T) == ("subs", 0)
    assert config.sampling.predictor == "sparse" and config.sampling.use_float64
    assert "loss_precision" not in config.training
    assert "backbone" not in config.algo and config.trainer.max_steps == 50_000
    # The command line still wins, and without `algo` nothing of ours is there, nor read.
    assert composed(folder, "algo=mcd", "T=5").T == 5
    monkeypatch.setattr(plugin, "read", lambda path: pytest.fail(f"{path} was read"))
    plain = composed(folder)
    assert "algo" not in plain and plain.sampling.predictor == "analytic"


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize(
    "main, model, stops",
    [
        ("import diffusion\n", "diffusion.py", True),
        ("# config.algo._target_ would be nice\n", "diffusion.py", True),
        ("from mdlm_mcd.hosts import stubs\nstubs.install()\n", "diffusion.py", True),
        ("model = config.algo.get('_target_')\n", "diffusion.py", False),
        ("print()\n", "theirs.py", False),  # no host
    ],
)
def test_an_unpatched_host_is_stopped(folder, monkeypatch, main, model, stops, elsewhere):
    """When its config is read; also with --config-path, by the main.py that runs."""
    (folder / "main.py").write_text(main)
    (folder / "diffusion.py").rename(folder / model)
    started, configs = sys.modules["__main__"], folder
    if elsewhere:
        monkeypatch.setattr(started, "__file__", str(folder / "main.py"), raising=False)
        configs = folder / "elsewhere"
        configs.mkdir()
        (folder / "configs").rename(configs / "configs")
    config = composed(configs, "algo=mcd")
    assert ("unpatched_host" in list(config.algo)) == stops  # `in` alone resolves it
    if stops:
        with pytest.raises(SystemExit, match="mdlm-mcd patch"):
            _ = config.algo.unpatched_host
        monkeypatch.setenv("MDLM_MCD_PATCHED", str(folder.resolve()))
        assert "unpatched_host" not in composed(configs, "algo=mcd").algo


def test_options_that_an_application_stores_are_not_merged_with_ours(folder, monkeypatch):
    store = ConfigStore.instance()
    monkeypatch.setattr(store, "repo", copy.deepcopy(store.repo))  # there is but one
    store.store(group="algo", name="mmd", node={"bandwidth": 3})
    assert composed(folder, "algo=mmd").algo == {"bandwidth": 3}
