"""Models of the embedded host, two steps old."""

import pytest

from mdlm_mcd.minihost import main as minihost

TINY = ("trainer.max_steps=2", "model.hidden_size=16", "model.n_blocks=1")


@pytest.fixture(scope="module")
def runs(module_compose, tmp_path_factory):
    """A masked model and an evaluator."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for algo in ("mdlm", "ar"):
        where = f"checkpointing.save_dir={folder / algo}"
        minihost.run(module_compose(*TINY, f"algo={algo}", where))
        found[algo] = folder / algo / "checkpoints" / "last.ckpt"
    return found
