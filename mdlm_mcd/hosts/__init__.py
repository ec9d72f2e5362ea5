"""Adapters: one module for each family of host code bases.

`algo._target_` in our configs names a class of this module. Its host is known only
once the host's `main.py` has imported its own modules, so the class is made when it is
asked for.
"""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType

from ..errors import ConfigError
from .specs import SPECS, HostSpec

DISTILLERS = ("MCD", "SDTT", "CD4LM", "DCD", "MMD", "Subset")


def detect() -> tuple[HostSpec, ModuleType]:
    """Find the host's spec and its module of models among the loaded modules.

    Raises ConfigError listing what was looked for.
    """
    candidates = [(spec, name) for spec in SPECS for name in spec.modules]
    missing = []
    # A clone, whose name is plain, goes before the embedded host, which our own code may load.
    for spec, name in sorted(candidates, key=lambda c: "." in c[1]):
        module = sys.modules.get(name)
        if module is None:
            missing.append(f"no module `{name}` is loaded")
        elif lacks := spec.missing_attributes(module):
            missing.append(f"module `{name}` lacks {', '.join(lacks)}")
        else:
            return spec, module
    raise ConfigError(
        "algo._target_ names a distiller, but no host it could train was found ("
        + "; ".join(missing)
        + "): run it from the main.py of a Duo or MDLM clone, or as "
        "python -m mdlm_mcd.minihost.main algo=mcd."
    )


def resolve_model_class(mixin: type, spec: HostSpec) -> str:
    """Return the name of the host's class that a distiller of ours trains.

    Raises ConfigError for a host without such models.
    """
    from ..checkpoints.weights import PROCESSES

    model = spec.models.get(mixin.parameterization)
    if model is None:
        raise ConfigError(
            f"algo._target_={__name__}.{mixin.__name__} needs "
            f"{PROCESSES[mixin.parameterization]}, and {spec.name}'s code has none: "
            "use a host in Duo's layout, or algo=mcd."
        )
    return model


@functools.cache
def distiller(name: str, spec: HostSpec, module: ModuleType) -> type:
    """Build a student class: the distiller's training before the host's model."""
    from .. import distillers  # imports torch: `mdlm-mcd patch` does without

    adapter = importlib.import_module(f"{__name__}.{spec.adapter}")
    mixin = getattr(distillers, name)
    model = resolve_model_class(mixin, spec)
    cls = adapter.student(mixin, getattr(module, model))
    # Where pickle finds it again, made for the host that is loaded there.
    cls.__module__, cls.__name__, cls.__qualname__ = __name__, name, name
    cls.__doc__ = mixin.__doc__
    return cls


def __getattr__(name: str):
    if name in DISTILLERS:
        return distiller(name, *detect())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
