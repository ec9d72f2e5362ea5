"""The subcommands of `mdlm-mcd`, one module each; `main` dispatches."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..errors import ConfigError


def folder(named: str) -> Path:
    """Return the folder of `--out`; an empty one, of an unset shell variable, is none."""
    if not named:
        raise ConfigError("--out is empty: name a folder.")
    return Path(named)


def require_matplotlib() -> None:
    """Raise ConfigError with the remedy when matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "The figure needs matplotlib, which is not installed: pip install 'mdlm-mcd[demo]'."
        ) from error


def installed(package: str) -> str | None:
    """Return the version of a package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git(folder: str | Path, *arguments: str) -> str:
    """Return what git prints of a folder; nothing without git, and outside of a checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True
        )
    except OSError:  # no git on this machine
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
