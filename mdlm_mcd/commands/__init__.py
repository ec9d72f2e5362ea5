"""The subcommands of `mdlm-mcd`, one module each; `main` dispatches."""

from __future__ import annotations

import platform
from importlib.metadata import version

from .. import __version__

# Dependencies, so they are installed.
PACKAGES = ("torch", "lightning", "hydra-core", "transformers", "tokenizers", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of PACKAGES."""
    own = {"mdlm-mcd": __version__, "python": platform.python_version()}
    return own | {package: version(package) for package in PACKAGES}
