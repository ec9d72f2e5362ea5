"""Make our config groups visible to every Hydra application.

Hydra imports this file at each start of each application, so it stays light: nothing
here may import torch or raise, and no file is read before one of our algos asks for the
group `host`, which depends on the application.
"""

import functools
import os
import sys
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.config_source import ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from mdlm_mcd import configs_dir

# Set by `mdlm-mcd run` to the host that it has patched in memory.
IN_MEMORY = "MDLM_MCD_PATCHED"
GROUPS = ("host", "host_check")


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return ""


def trains_ours(main: str) -> bool:
    """Return whether the source of a main.py asks the `algo` config for a class."""
    lines = [line for line in main.splitlines() if not line.lstrip().startswith("#")]
    wanted = ("algo._target_", "get('_target_')", 'get("_target_")', "mdlm_mcd")
    return any(word in line for line in lines for word in wanted)


def unpatched(host: Path) -> bool:
    """Return whether a folder is a host that would not train what `algo._target_` names."""
    known = (host / "algo.py").exists() or (host / "diffusion.py").exists()
    main = read(host / "main.py")
    patched = os.environ.get(IN_MEMORY) == str(host) or trains_ours(main)
    return known and bool(main) and not patched


def layouts(hosts: list[Path], config: str) -> list[str]:
    """Return which of `configs/layouts` fit the application, best first.

    hosts: folders it may live in; config: the text of its main config.
    """
    # MDLM keeps at the root of its config what Duo keeps under `algo`.
    name = "mdlm" if "\nparameterization:" in "\n" + config else "duo"
    return ["unpatched", name] if any(map(unpatched, hosts)) else [name]


def stop_unpatched():
    # Not an exception: OmegaConf and Hydra would bury the sentence in their own.
    raise SystemExit(
        "mdlm-mcd: this host's main.py does not look at algo._target_ and would not "
        "train what the `algo` config names: run `mdlm-mcd patch .` once, or start "
        "with `mdlm-mcd run` in place of `python main.py`."
    )


class LayoutSource(ConfigSource):
    """The groups of `configs/layouts` that fit the application.

    path: the folder of its main config.
    """

    @staticmethod
    def scheme() -> str:
        return "mdlm-mcd"

    @functools.cached_property
    def sources(self) -> list[ConfigSource]:
        from hydra._internal.core_plugins.file_config_source import FileConfigSource

        OmegaConf.register_new_resolver("mdlm_mcd_unpatched_host", stop_unpatched, replace=True)
        folder = Path(self.path)
        # `--config-path` may lead away from the host, but not its main.py.
        script = getattr(sys.modules.get("__main__"), "__file__", None)
        hosts = [folder.parent.resolve()]
        hosts += [Path(script).resolve().parent] if script else []
        found = layouts(hosts, read(folder / "config.yaml"))
        places = [configs_dir() / "layouts" / name for name in found]
        return [FileConfigSource(self.provider, f"file://{place}") for place in places]

    def _of(self, config_path: str) -> list[ConfigSource]:
        return self.sources if config_path.partition("/")[0] in GROUPS else []

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return any(source.is_group(config_path) for source in self._of(config_path))

    def is_config(self, config_path: str) -> bool:
        return any(source.is_config(config_path) for source in self._of(config_path))

    def load_config(self, config_path: str):
        (source, *_) = [s for s in self._of(config_path) if s.is_config(config_path)]
        return source.load_config(config_path)

    def list(self, config_path: str, results_filter) -> list[str]:
        groups = [source for source in self._of(config_path) if source.is_group(config_path)]
        return sorted({name for s in groups for name in s.list(config_path, results_filter)})


class MDLMMCDSearchPathPlugin(SearchPathPlugin):
    """Append our `configs`: last, so that a host's own files win."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        places = [e.path for e in search_path.get_path() if e.provider == "main"]
        folder = (places or [""])[0].removeprefix("file://")
        search_path.append("mdlm-mcd", f"{LayoutSource.scheme()}://{folder}")
        search_path.append("mdlm-mcd", f"file://{configs_dir()}")
