"""Make our config groups visible to every Hydra application.

Hydra imports this file at each start of each application, so it stays light: nothing
here may import torch or raise, and no file is read before a config of ours asks for the
group `host`, which depends on the application.
"""

import os
import re
import sys
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
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


def family(config: str) -> str:
    """Return whose keys an application has, by the text of its main config."""
    # MDLM keeps at the root of its config what Duo keeps under `algo`.
    return "mdlm" if "\nparameterization:" in "\n" + config else "duo"


def trains_ours(main: str) -> bool:
    """Return whether the source of a main.py asks the `algo` config for a class."""
    # Nor a comment nor the stand-ins of `hosts.stubs`, which train what they are given.
    lines = [line for line in main.splitlines() if not re.match(r"\s*#|.*\bstubs\b", line)]
    wanted = ("algo._target_", "get('_target_')", 'get("_target_")', "mdlm_mcd")
    return any(word in line for line in lines for word in wanted)


def unpatched(host: Path) -> bool:
    """Return whether a folder is a host that would not train what `algo._target_` names."""
    known = (host / "algo.py").exists() or (host / "diffusion.py").exists()
    main = read(host / "main.py")
    patched = os.environ.get(IN_MEMORY) == str(host) or trains_ours(main)
    return known and bool(main) and not patched


def patch_state(configs: Path) -> str:
    """Return `unpatched`, an option of the group `host_check`, or `patched`, which is none."""
    # `--config-path` may lead away from the host, but not its main.py.
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    hosts = [configs.parent, *([Path(script).parent] if script else [])]
    return "unpatched" if any(unpatched(host.resolve()) for host in hosts) else "patched"


def stop_unpatched():
    # Not an exception: OmegaConf and Hydra would bury the sentence in their own.
    raise SystemExit(
        "mdlm-mcd: this host's main.py does not look at algo._target_ and would not "
        "train what the `algo` config names: run `mdlm-mcd patch .` once, or start "
        "with `mdlm-mcd run` in place of `python main.py`."
    )


class MDLMMCDSearchPathPlugin(SearchPathPlugin):
    """Append our `configs`: behind a host's own files, which win."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        places = [e.path for e in search_path.get_path() if e.provider == "main"]
        folder = Path((places or [""])[0].removeprefix("file://"))
        for name, resolver in (
            ("mdlm_mcd_family", lambda: family(read(folder / "config.yaml"))),
            ("mdlm_mcd_patch_state", lambda: patch_state(folder)),
            ("mdlm_mcd_unpatched_host", stop_unpatched),
        ):
            OmegaConf.register_new_resolver(name, resolver, replace=True)
        # With options of its own of such a group an application would have ours merged into them.
        if not ConfigStore.instance().repo.keys() & set(os.listdir(configs_dir())):
            search_path.append("mdlm-mcd", f"file://{configs_dir()}")
