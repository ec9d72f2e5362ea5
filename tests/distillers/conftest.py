"""A teacher for every distiller."""

import pytest
import torch

from mdlm_mcd.minihost import main as minihost


@pytest.fixture(scope="module")
def teacher_path(request, tmp_path_factory, corpus, cache_dir):
    """A teacher trained for 60 steps by the host's own `algo=mdlm`."""
    folder = tmp_path_factory.mktemp("teacher")
    compose = request.getfixturevalue("module_compose")
    config = compose("trainer.max_steps=60", "optim.lr=1e-2", f"checkpointing.save_dir={folder}")
    minihost.run(config)
    path = folder / "checkpoints" / "last.ckpt"
    assert torch.load(path, weights_only=True)["global_step"] == 60
    return path
