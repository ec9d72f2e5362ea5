"""A shell in which every command can be called, with a teacher at hand."""

import pytest
import torch
from commands import Shell

from mdlm_mcd.minihost import main as minihost


@pytest.fixture(scope="module")
def models(module_compose, tmp_path_factory):
    """A masked model and an evaluator, one step old."""
    found = []
    for algo in ("mdlm", "ar"):
        folder = tmp_path_factory.mktemp(algo)
        where = f"checkpointing.save_dir={folder}"
        minihost.run(module_compose(f"algo={algo}", "trainer.max_steps=1", where))
        found.append(folder / "checkpoints" / "last.ckpt")
    return found


@pytest.fixture
def shell(models, compose, tmp_path, monkeypatch):
    """Offline and without CUDA, wherever the tests run."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    return Shell(compose.tiny, tmp_path, *models)
