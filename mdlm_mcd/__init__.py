"""Masked Consistency Distillation for masked diffusion language models.

The paper lives in six modules that need nothing but torch: `coupling`, `laws`,
`curriculum`, `losses`, `head` and `duality`. This file stays free of imports, because
Hydra's plugin scan reads it at every start of every Hydra application.
"""

from pathlib import Path

__version__ = "0.2.0"


def _beside(name: str) -> Path:
    """Return a folder beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def configs_dir() -> Path:
    """Return the folder with our Hydra config groups."""
    return _beside("configs")


def patches_dir() -> Path:
    """Return the folder with the hosts' patches."""
    return _beside("patches")
