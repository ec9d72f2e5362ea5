"""The subcommands of `mdlm-mcd`, one module each; `main` dispatches."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from .. import __version__
from ..errors import ConfigError

PACKAGES = ("torch", "lightning", "hydra-core", "transformers", "tokenizers", "numpy")


def require_matplotlib() -> None:
    """Raise ConfigError with the remedy when matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "The figure needs matplotlib, which is not installed: pip install 'mdlm-mcd[demo]'."
        ) from error


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of the packages that are installed."""
    found = {"mdlm-mcd": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
