"""Makes our config groups visible to every Hydra application.

Hydra imports this file at each start of each application, so it stays light:
nothing here may import torch, and nothing may raise.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from mdlm_mcd import configs_dir


class MDLMMCDSearchPathPlugin(SearchPathPlugin):
    """Appends our `configs`: last, so that a host's own files win."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="mdlm-mcd", path=f"file://{configs_dir()}")
