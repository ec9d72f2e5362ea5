"""Adapters: one module for each family of host code bases.

`algo._target_` in our configs names a class of this module. Which class that is
depends on the host, so it is made when it is asked for: the host's `main.py` has
imported its own modules by then, and what is loaded is what runs.
"""

from __future__ import annotations

import functools
import sys
from types import ModuleType

from ..errors import ConfigError

DISTILLERS = ("MCD",)

# A clone's `main.py` runs from its own folder and imports `algo` from there. A
# real host goes before the embedded one, which our own code may have loaded too.
_CANDIDATES = ("algo", "mdlm_mcd.minihost.algo")


def detect() -> ModuleType:
    """The host's module of models, recognised by what it offers.

    Raises ConfigError listing what was looked for.
    """
    from . import duo

    said = []
    for name in _CANDIDATES:
        module = sys.modules.get(name)
        if module is None:
            said.append(f"no module `{name}` is loaded")
        elif lacks := duo.lacks(module):
            said.append(f"module `{name}` lacks {', '.join(lacks)}")
        else:
            return module
    raise ConfigError(
        "algo._target_ names a distiller, but no host it could train was found ("
        + "; ".join(said)
        + "): run it from the main.py of a Duo clone, or as "
        "python -m mdlm_mcd.minihost.main algo=mcd."
    )


@functools.cache
def distiller(name: str, algo: ModuleType) -> type:
    """The host's `MDLM` married to the distiller of that name."""
    # Only here: Lightning comes with them, and `hosts.shims` goes before that.
    from .. import distillers
    from . import duo

    return duo.marry(getattr(distillers, name), algo)


def __getattr__(name: str):
    if name in DISTILLERS:
        return distiller(name, detect())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
