"""Checkpoints that pickle configs, tokenizers and classes that are gone."""

import collections
import io
import pickle
import sys
import types

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
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
    monkeypatch.setattr(torch, "load", loading.tolerant(REAL))


class Host(L.LightningModule):
    """Saves its arguments as the hosts do, and an average beside the weights."""

    def __init__(self, config, tokenizer):
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Linear(3, 1)
        self.config, self.tokenizer, self.average = config, tokenizer, None
        self.steps = 0

    def training_step(self, batch, batch_idx):
        self.steps += 1
        return self.net(batch).square().mean()

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.config.lr)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: 0.9**s)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def on_save_checkpoint(self, checkpoint):
        checkpoint["ema"] = {"shadow_params": [p.detach() for p in self.parameters()]}

    def on_load_checkpoint(self, checkpoint):
        self.average = checkpoint["ema"]["shadow_params"]


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return eval, (f"open({self.path!r}, 'w').close()",)


@pytest.fixture
def gone(monkeypatch):
    """An object of a module that cannot be imported once this is called."""
    module = types.ModuleType("a_tokenizer_of_old")
    module.Old = type("Old", (), {"__module__": module.__name__})
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.Old()


def fit(model, folder, steps, **how):
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    # All batches alike: a resumed Lightning begins its epoch's data again.
    data = torch.utils.data.DataLoader(rows.repeat(6, 1), batch_size=4)
    L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, every_n_train_steps=2, save_last=True)],
    ).fit(model, data, **how)
    return model


@refuses
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended")
def test_lightning_opens_and_resumes_a_hosts_checkpoint(tmp_path, gone, patched):
    ends = []
    for steps in (2, 4):
        torch.manual_seed(0)
        ends.append(fit(Host(CONFIG, gone), tmp_path / str(steps), steps))
    half, whole = ends
    del sys.modules["a_tokenizer_of_old"]
    path = tmp_path / "2" / "last.ckpt"
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        REAL(path)
    model = Host.load_from_checkpoint(path, config=CONFIG, tokenizer="a new one")
    assert model.config is CONFIG and model.tokenizer == "a new one"
    assert torch.equal(model.net.weight, half.net.weight)
    assert torch.equal(model.average[0], half.net.weight)
    resumed = fit(Host(CONFIG, "a new one"), tmp_path / "again", 4, ckpt_path=path)
    assert resumed.steps == 2
    assert torch.equal(resumed.net.weight, whole.net.weight)  # Adam's state, the rate
    # And what is saved next opens like the first.
    again = tmp_path / "again" / "last.ckpt"
    assert Host.load_from_checkpoint(again, config=CONFIG, tokenizer=0).tokenizer == 0


@refuses
def test_no_code_is_run_and_plain_values_survive(tmp_path, patched, gone):
    canary, path = tmp_path / "canary", tmp_path / "x.ckpt"
    plain = {"set": {1, 2}, "counts": collections.defaultdict(list, a=[1]), "rate": np.float64(0.1)}
    torch.save({**plain, "bomb": Bomb(str(canary)), "old": gone}, path)
    del sys.modules["a_tokenizer_of_old"]
    with path.open("rb") as file:
        for content in (
            torch.load(path),
            torch.load(path, map_location="cpu", mmap=True),
            torch.load(io.BytesIO(path.read_bytes())),
            torch.load(file),
        ):
            assert {name: content[name] for name in plain} == plain
            assert type(content["rate"]) is np.float64
    assert not canary.exists()


@refuses
def test_who_asks_gets_what_he_asks_for(tmp_path, patched):
    path = tmp_path / "x.ckpt"
    torch.save({"config": CONFIG}, path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    assert torch.load(path, weights_only=False)["config"] == CONFIG
    assert torch.load(path, pickle_module=pickle)["config"] == CONFIG


@refuses
def test_files_that_cannot_be_read_raise_as_before(tmp_path, patched):
    (tmp_path / "x").write_bytes(b"no checkpoint")
    for load in (REAL, torch.load):
        with pytest.raises(pickle.UnpicklingError, match="weights_only"):
            load(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        torch.load(tmp_path / "missing")
    torch.save({"a": torch.ones(2)}, tmp_path / "plain")
    assert torch.equal(torch.load(tmp_path / "plain")["a"], torch.ones(2))


@pytest.mark.parametrize("version,wraps", [("2.5.1", False), ("2.6.0+cu124", True)])
def test_older_torch_is_left_alone(monkeypatch, version, wraps):
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch, "load", REAL)
    assert bool(loading.supply()) is wraps is (torch.load is not REAL)
