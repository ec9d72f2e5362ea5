"""The subcommands of `mdlm-mcd`, one module each; `main` dispatches."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError


def folder(named: str) -> Path:
    """Return the folder of `--out`; an empty one, of an unset shell variable, is none."""
    if not named:
        raise ConfigError("--out is empty: name a folder.")
    return Path(named)
