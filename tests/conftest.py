"""Fixtures: tiny models, tiny data, configs composed with Hydra."""

from __future__ import annotations

import copy
import functools
import os
import re

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hydra
import hypothesis
import pytest
import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from shell import Shell
from texts import WORDS

from mdlm_mcd.minihost import algo, dataloader
from mdlm_mcd.minihost import main as minihost

# The same examples in every run, on machines of any speed.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def _fresh():
    torch.manual_seed(0)
    # A command run in process leaves its own, by which relative paths are read.
    HydraConfig.instance().cfg = None


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A text file of 400 short documents: quick to tokenize, quick to learn."""
    generator = torch.Generator().manual_seed(0)
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    documents = []
    for _ in range(400):
        start = torch.randint(len(WORDS), (12,), generator=generator).tolist()
        documents.append(" ".join(f"{WORDS[i]} {WORDS[(i + 1) % len(WORDS)]}" for i in start))
    path.write_text("\n\n\n".join(documents), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def compose_in(corpus, tmp_path_factory):
    """`compose_in(folder)`: a `compose` for that folder."""
    cache_dir = tmp_path_factory.mktemp("cache")
    return lambda folder: _composer(corpus, cache_dir, folder)


@pytest.fixture
def compose(compose_in, tmp_path):
    """`compose(*overrides)`: the minihost's config, tiny, for this test's folder."""
    return compose_in(tmp_path)


@pytest.fixture(scope="module")
def module_compose(compose_in, tmp_path_factory):
    """The same for fixtures that outlive a test."""
    return compose_in(tmp_path_factory.mktemp("run"))


@pytest.fixture
def random_mdlm(compose):
    """The host's MDLM in eval mode, away from the zero start, where nothing shows."""
    config = compose()
    model = algo.MDLM(config, dataloader.get_tokenizer(config)).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return model


TINY = """
    data=textfile data.vocab_size=300 model=laptop model.hidden_size=32 model.n_blocks=2
    model.n_heads=2 model.cond_dim=16 model.length=16 loader.global_batch_size=8
    trainer.accelerator=cpu trainer.devices=1 trainer.limit_val_batches=2
    trainer.val_check_interval=1000 trainer.log_every_n_steps=1 lr_scheduler.num_warmup_steps=0
    ~callbacks.progress +trainer.enable_progress_bar=false +trainer.enable_model_summary=false
""".split()


@functools.cache
def _groups(*overrides):
    """Return the config of some groups: Hydra takes longer for it than a model for a step."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_module("mdlm_mcd.minihost.configs", version_base=None):
        config = hydra.compose("config", overrides=list(overrides))
    OmegaConf.set_struct(config, True)
    return config


def _composer(corpus, cache_dir, folder):
    minihost.register_resolvers()
    tiny = (*TINY, f"data.files=[{corpus}]", f"data.cache_dir={cache_dir}")
    tiny += (f"checkpointing.save_dir={folder}",)

    def build(*overrides: str):
        given = [*tiny, *overrides]
        keys = [o for o in given if re.match(r"[+~]*\w+\.[\w.]+(=|$)", o)]
        config = copy.deepcopy(_groups(*(o for o in given if o not in keys)))
        ConfigLoaderImpl._apply_overrides_to_config(
            OverridesParser.create().parse_overrides(keys), config
        )
        return config

    build.tiny = tiny  # for tests that go through the command line
    return build


TWO_STEPS = ("trainer.max_steps=2", "model.hidden_size=16", "model.n_blocks=1")


@pytest.fixture(scope="session")
def runs(compose_in, tmp_path_factory):
    """Checkpoints of the minihost, two steps old: a masked model and an AR one."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for name in ("mdlm", "ar"):
        minihost.run(compose_in(folder / name)(*TWO_STEPS, f"algo={name}"))
        found[name] = folder / name / "checkpoints" / "last.ckpt"
    return found


@pytest.fixture
def shell(runs, compose, tmp_path, monkeypatch):
    """A `Shell` with a teacher and an evaluator, offline and without CUDA."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return Shell((*compose.tiny, *TWO_STEPS[1:]), tmp_path, runs["mdlm"], runs["ar"])
