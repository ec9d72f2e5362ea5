"""Checkpoints that pickle configs, tokenizers and classes that are gone."""

import io
import pickle
import sys
import types
import zipfile

import lightning as L
import pytest
import torch
from omegaconf import OmegaConf

from mdlm_mcd.hosts.stubs import loading

refuses = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6),
    reason="this torch opens the hosts' checkpoints by itself",
)
REAL = torch.load
CONFIG = OmegaConf.create({"lr": 0.1, "model": {"length": "${lr}", "sizes": [1, 2]}})


@pytest.fixture
def patched(monkeypatch):
    """`test_install` has an older torch, which is left alone."""
    monkeypatch.setattr(torch, "__version__", "2.6.0+cu124")
    monkeypatch.setattr(torch, "load", REAL)
    assert loading.supply() and torch.load is not REAL


class Host(L.LightningModule):
    """Saves its arguments as the hosts do."""

    def __init__(self, config, tokenizer):
        super().__init__()
        self.save_hyperparameters()
        self.net, self.steps = torch.nn.Linear(3, 1), 0

    def training_step(self, batch, batch_idx):
        self.steps += 1
        return self.net(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1)


class Bomb(str):
    """The path of a file that its unpickling makes."""

    def __reduce__(self):
        return eval, (f"open({str(self)!r}, 'w').close()",)


@pytest.fixture
def gone(monkeypatch):
    """An object of a module that is gone once `sys.modules` is without it."""
    module = types.ModuleType("a_tokenizer_of_old")
    module.Old = type("Old", (), {"__module__": module.__name__})
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.Old()


def fit(model, steps, **how):
    silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(max_steps=steps, accelerator="cpu", enable_checkpointing=False, **silent)
    trainer.fit(model, torch.utils.data.DataLoader(torch.ones(24, 3), batch_size=4), **how)
    return trainer


@refuses
def test_lightning_opens_and_resumes_a_hosts_checkpoint(tmp_path, gone, patched):
    (whole, half), path = (Host(CONFIG, gone) for _ in range(2)), tmp_path / "x.ckpt"
    half.load_state_dict(whole.state_dict())
    fit(whole, 4)
    fit(half, 2).save_checkpoint(path)
    del sys.modules["a_tokenizer_of_old"]
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        REAL(path)
    model = Host.load_from_checkpoint(path, config=CONFIG, tokenizer="a new one")
    assert model.hparams.config is CONFIG and model.hparams.tokenizer == "a new one"
    assert torch.equal(model.net.weight, half.net.weight)
    resumed = Host(CONFIG, "a new one")
    fit(resumed, 4, ckpt_path=path)
    assert resumed.steps == 2
    assert torch.equal(resumed.net.weight, whole.net.weight)  # Adam's state as well


@refuses
def test_no_code_is_run_in_files_of_any_kind(tmp_path, patched):
    canary, path = tmp_path / "canary", tmp_path / "x.ckpt"
    torch.save({"set": {1, 2}, "bomb": Bomb(canary)}, path)
    with path.open("rb") as file:
        for content in (
            torch.load(path, map_location="cpu", mmap=True),
            torch.load(io.BytesIO(path.read_bytes())),
            torch.load(file),
        ):
            assert content["set"] == {1, 2}
    assert not canary.exists()


@refuses
def test_whoever_asks_otherwise_and_other_files_get_what_torch_gives(tmp_path, patched):
    path = tmp_path / "x.ckpt"
    torch.save({"config": CONFIG}, path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    assert torch.load(path, weights_only=False)["config"] == CONFIG
    assert torch.load(path, pickle_module=pickle)["config"] == CONFIG
    path.write_bytes(b"no checkpoint")
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        torch.load(path)


@refuses
def test_torchscript_is_not_run(tmp_path, patched, monkeypatch):
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("it was run"))
    torch.save({"bomb": Bomb("x")}, tmp_path / "x.ckpt")
    with zipfile.ZipFile(tmp_path / "x.ckpt", "a") as archive:
        archive.writestr("x/constants.pkl", b".")
    with pytest.raises((RuntimeError, pickle.UnpicklingError)):
        torch.load(tmp_path / "x.ckpt")
