"""Makes our config groups visible to every Hydra application.

Hydra imports this file at each start of each application, so it stays light:
nothing here may import torch, and nothing may raise.
"""

import os
import sys
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from mdlm_mcd import configs_dir

# Set by `mdlm-mcd run` to the host that it has patched in memory.
IN_MEMORY = "MDLM_MCD_PATCHED"


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return ""


def trains_ours(main: str) -> bool:
    """Whether the source of a main.py asks the `algo` config for a class."""
    lines = [line for line in main.splitlines() if not line.lstrip().startswith("#")]
    wanted = ("algo._target_", "get('_target_')", 'get("_target_")', "mdlm_mcd")
    return any(word in line for line in lines for word in wanted)


def unpatched(host: Path) -> bool:
    """Whether a folder is a host that would not train what `algo._target_` names."""
    known = (host / "algo.py").exists() or (host / "diffusion.py").exists()
    main = read(host / "main.py")
    patched = os.environ.get(IN_MEMORY) == str(host) or trains_ours(main)
    return known and bool(main) and not patched


def layouts(hosts: list[Path], config: str) -> list[str]:
    """Which of `configs/layouts` fit the application, best first.

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


class MDLMMCDSearchPathPlugin(SearchPathPlugin):
    """Appends our `configs`: last, so that a host's own files win."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        OmegaConf.register_new_resolver("mdlm_mcd_unpatched_host", stop_unpatched, replace=True)
        places = [e.path for e in search_path.get_path() if e.provider == "main"]
        folder = Path((places or [""])[0].removeprefix("file://"))
        # `--config-path` may lead away from the host, but not its main.py.
        script = getattr(sys.modules.get("__main__"), "__file__", None)
        hosts = [folder.parent.resolve()]
        hosts += [Path(script).resolve().parent] if script else []
        found = layouts(hosts, read(folder / "config.yaml"))
        for path in [configs_dir() / "layouts" / name for name in found]:
            search_path.append(provider="mdlm-mcd", path=f"file://{path}")
        search_path.append(provider="mdlm-mcd", path=f"file://{configs_dir()}")
