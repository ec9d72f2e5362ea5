"""The subcommands of `mdlm-mcd`, one module each; `main` dispatches."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from .. import __version__

PACKAGES = ("torch", "lightning", "hydra-core", "transformers", "tokenizers", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of the packages that are installed."""
    found = {"mdlm-mcd": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
