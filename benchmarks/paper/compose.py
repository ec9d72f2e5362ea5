"""Compose configs of the embedded host; nothing is resolved and nothing runs."""

from __future__ import annotations

from collections.abc import Sequence

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from mdlm_mcd.minihost import main as minihost


def embedded(overrides: Sequence[str]) -> DictConfig:
    minihost.register_resolvers()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_module("mdlm_mcd.minihost.configs", version_base=None):
        return hydra.compose("config", overrides=list(overrides))
