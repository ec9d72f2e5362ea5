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
from tokenizers import Tokenizer, models

from mdlm_mcd.hosts.stubs import loading

try:
    from lightning.fabric.utilities.data import AttributeDict
except ImportError:
    from lightning.pytorch.utilities.parsing import AttributeDict

refuses = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6),
    reason="this torch opens the hosts' checkpoints by itself",
)
REAL = torch.load


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
def gone():
    """An object of a module that cannot be imported when the file is read."""
    module = types.ModuleType("a_tokenizer_of_old")
    cls = type("Old", (), {"__module__": module.__name__})
    module.Old = cls
    sys.modules[module.__name__] = module
    old = cls()
    old.vocab = {"a": 1}
    yield old
    sys.modules.pop(module.__name__, None)


def forget():
    sys.modules.pop("a_tokenizer_of_old", None)


def config():
    return OmegaConf.create({"lr": 0.1, "model": {"length": "${lr}", "sizes": [1, 2]}})


def trainer(folder, steps):
    return L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        precision=32,
        callbacks=[ModelCheckpoint(folder, every_n_train_steps=2, save_last=True)],
    )


def data():
    generator = torch.Generator().manual_seed(0)
    # All batches alike: a resumed Lightning begins its epoch's data again.
    rows = torch.randn(4, 3, generator=generator).repeat(6, 1)
    return torch.utils.data.DataLoader(rows, batch_size=4)


@pytest.fixture
def checkpoint(tmp_path, gone):
    """Written by Lightning after 2 of 4 steps; and the run that was not stopped."""
    tokenizer = [Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), gone]
    torch.manual_seed(0)
    half = Host(config(), tokenizer)
    trainer(tmp_path / "half", 2).fit(half, data())
    torch.manual_seed(0)
    whole = Host(config(), tokenizer)
    trainer(tmp_path / "whole", 4).fit(whole, data())
    forget()
    return tmp_path / "half" / "last.ckpt", half, whole


@refuses
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended")
def test_lightning_opens_and_resumes_a_hosts_checkpoint(checkpoint, patched):
    path, half, whole = checkpoint
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        REAL(path)
    given = config()
    model = Host.load_from_checkpoint(path, config=given, tokenizer="a new one")
    assert model.config is given and model.tokenizer == "a new one"
    assert torch.equal(model.net.weight, half.net.weight)
    assert torch.equal(model.average[0], half.net.weight)
    resumed = Host(given, "a new one")
    trainer(path.parents[1] / "again", 4).fit(resumed, data(), ckpt_path=path)
    assert resumed.steps == 2
    assert torch.equal(resumed.net.weight, whole.net.weight)  # Adam's state, the rate
    # And what is saved next opens like the first.
    again = path.parents[1] / "again" / "last.ckpt"
    assert Host.load_from_checkpoint(again, config=given, tokenizer=0).tokenizer == 0


@refuses
def test_checkpoints_of_older_lightnings(checkpoint, patched):
    """Their hyperparameters were an AttributeDict; their spec is migrated."""
    path, half, _ = checkpoint
    content = torch.load(path)
    content["hyper_parameters"] = AttributeDict(config=config(), tokenizer=1)
    content["pytorch-lightning_version"] = "2.0.0"
    torch.save(content, path)
    read = torch.load(path)["hyper_parameters"]
    assert isinstance(read, dict) and read["tokenizer"] == 1
    model = Host.load_from_checkpoint(path, config=config(), tokenizer=2)
    assert model.tokenizer == 2 and torch.equal(model.net.weight, half.net.weight)


@refuses
def test_no_code_is_run_and_plain_values_survive(tmp_path, patched, gone):
    canary, path = tmp_path / "canary", tmp_path / "x.ckpt"
    plain = {"set": {1, 2}, "counts": collections.defaultdict(list, a=[1]), "rate": np.float64(0.1)}
    torch.save({**plain, "bomb": Bomb(str(canary)), "old": gone}, path)
    forget()
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
    torch.save({"config": config()}, path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    assert torch.load(path, weights_only=False)["config"] == config()
    assert torch.load(path, pickle_module=pickle)["config"] == config()


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
