"""The subcommands of `mdlm-mcd`, one module each; `main` dispatches."""

from __future__ import annotations

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
