"""Configs as the runs would see them, composed through the plugin's search path.

Nothing is resolved and nothing runs: enough to count, and to find a misspelt key.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig

from hydra_plugins.mdlm_mcd_searchpath import IN_MEMORY
from mdlm_mcd.commands import doctor
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.hosts import launch
from mdlm_mcd.minihost import main as minihost


def embedded(overrides: Sequence[str]) -> DictConfig:
    """The embedded host's config. Raises ConfigError for what does not compose."""
    minihost.register_resolvers()
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_module("mdlm_mcd.minihost.configs", version_base=None):
            return hydra.compose("config", overrides=list(overrides))
    except HydraException as error:
        raise _refused("the embedded host", overrides, error) from error


def clone(folder: Path, overrides: Sequence[str]) -> DictConfig:
    """The same of a clone of Duo or MDLM, as `mdlm-mcd run` would start it.

    Raises ConfigError for a folder that is no host, and for what does not compose.
    """
    folder = folder.resolve()
    layout, _, in_memory = launch.prepare(folder)
    before = os.environ.get(IN_MEMORY)
    os.environ[IN_MEMORY] = str(folder)
    try:
        return doctor.compose(folder, layout, overrides, patched=not in_memory)
    except HydraException as error:
        raise _refused(str(folder), overrides, error) from error
    finally:
        if before is None:
            del os.environ[IN_MEMORY]
        else:
            os.environ[IN_MEMORY] = before


def _refused(where: str, overrides: Sequence[str], error: Exception) -> ConfigError:
    said = " ".join(str(error).split("Available options")[0].split())
    return ConfigError(
        f"The config of {where} does not compose with {' '.join(overrides)}: {said} "
        "Look at the last override that you gave."
    )
