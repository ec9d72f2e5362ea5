"""Every recipe composes, with the algo it is for, and says what it costs."""

import re
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from mdlm_mcd.curriculum import Curriculum
from mdlm_mcd.minihost import main as minihost
from mdlm_mcd.settings import groups

RECIPES = sorted((Path(__file__).resolve().parents[2] / "configs" / "recipe").glob("*.yaml"))


def compose(*overrides):
    """Return a config as the minihost sees it, with Hydra's account of its files."""
    minihost.register_resolvers()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(minihost.CONFIGS, version_base=None):
        config = hydra.compose("config", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_compose_and_state_their_cost(path):
    text = path.read_text("utf-8")
    assert "# Use:" in text and "cost: " in text.lower() and "# Expected" in text
    used = re.search(rf"algo=(\w+) \+recipe={path.stem}\b", text)
    assert used or path.stem in ("owt", "owt_large")  # parts of others
    config = compose(f"algo={used[1] if used else 'mcd'}", f"+recipe={path.stem}")
    groups.check_groups(config, complete=True)
    algo = config.algo
    if algo.name in ("mcd", "sdtt", "dcd"):
        gaps = algo.delta0, algo.tau0, algo.tau_step
        curriculum = Curriculum(algo.rounds, algo.steps_per_round, *gaps)
        curriculum.check_max_steps(config.trainer.max_steps)


def test_the_papers_setting():
    config = compose("algo=mcd", "+recipe=mcd_paper", "model=small")
    assert (config.optim.lr, config.optim.beta2) == (6e-5, 0.999)
    assert config.lr_scheduler.num_warmup_steps == 500
    assert config.loader.global_batch_size == 128
    assert config.training.ema == 0.999 and config.trainer.max_steps == 50_000
    assert config.sampling.predictor == "sparse"
    assert config.training.loss_precision == "float32" and config.sampling.use_float64
