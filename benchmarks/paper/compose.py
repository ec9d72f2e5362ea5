"""Compose configs as the runs would see them, through the plugin's search path.

Nothing is resolved and nothing runs: enough to count, and to find a misspelt key.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig

from hydra_plugins.mdlm_mcd_searchpath import IN_MEMORY
from mdlm_mcd.commands import doctor
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.hosts import launch
from mdlm_mcd.minihost import main as minihost


def composed(overrides: Sequence[str], host: Path | None = None) -> DictConfig:
    """Return the config of the embedded host, or of a clone as `mdlm-mcd run` would start it.

    Raises ConfigError for a folder that is no host, and for what does not compose.
    """
    try:
        return clone(host.resolve(), overrides) if host else embedded(overrides)
    except HydraException as error:
        why = " ".join(str(error).split("Available options")[0].split())
        raise ConfigError(
            f"The config of {host or 'the embedded host'} does not compose with "
            f"{' '.join(overrides)}: {why} Check the last override that you gave."
        ) from error


def embedded(overrides: Sequence[str]) -> DictConfig:
    minihost.register_resolvers()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_module("mdlm_mcd.minihost.configs", version_base=None):
        return hydra.compose("config", overrides=list(overrides))


def clone(folder: Path, overrides: Sequence[str]) -> DictConfig:
    layout, _, in_memory = launch.prepare(folder)
    with mock.patch.dict(os.environ, {IN_MEMORY: str(folder)}):
        return doctor.compose(folder, layout, overrides, patched=not in_memory)
