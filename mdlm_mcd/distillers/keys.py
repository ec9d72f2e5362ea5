"""Keys that nobody reads: refused, with the key that was meant."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from .. import configs_dir
from ..errors import ConfigError


def check_keys(config: DictConfig) -> None:
    """Raises ConfigError for keys of `algo` that neither we nor the host read.

    Hydra refuses a key that is nowhere, but not with a plus, nor in a file of the
    user's. Of `sampling`, which is the host's, only what looks like a key of ours.
    """
    algo = config.algo
    own = [f for f in _ours("algo") if _read(f).algo._target_ == algo.get("_target_")]
    # What another class reads is not known here.
    known = _of_files([*own, *_ours("layouts/*")], "algo") | _of_host("algo")
    for key in algo if own else ():
        if key not in known and not key.startswith("_"):
            meant = nearest(key, known)
            raise ConfigError(
                f"algo.{key}={algo._get_node(key)} is read neither by algo={algo.name} "
                "nor by the host: "
                + (f"did you mean algo.{meant}?" if meant else "take it out.")
            )
    sampling = config.get("sampling", {})
    ours = _of_files(_ours("sampler"), "sampling")
    for key in sorted(set(sampling) - ours - _of_host("sampling")):
        if meant := nearest(key, ours):
            raise ConfigError(
                f"sampling.{key}={sampling._get_node(key)} is no key of a sampler: did "
                f"you mean sampling.{meant}?"
            )


def nearest(key: str, known: Iterable[str]) -> str | None:
    """The known key that was probably meant."""
    found = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.75)
    return found[0] if found else None


def _ours(folder: str) -> list[Path]:
    return sorted(configs_dir().glob(f"{folder}/**/*.yaml"))


def _of_host(group: str) -> set[str]:
    """Keys of a group in the files of the application that is running.

    Not in the one chosen, which may be the user's and hold the typo.
    """
    if not HydraConfig.initialized():
        return set()
    runtime = HydraConfig.get().runtime
    folders = [
        Path(source.path)
        for source in runtime.config_sources
        if source.provider == "main" and source.schema == "file"
    ]
    chosen = runtime.choices.get(group)
    named = [p for f in folders for p in f.glob(f"{group}/*.yaml") if p.stem != chosen]
    plain = {key for path in named for key in _keys(_read(path))}
    whole = [p for f in folders for p in f.glob("config.yaml")]
    return plain | _of_files([*named, *whole], group)


def _of_files(paths: Iterable[Path], group: str) -> set[str]:
    return {key for path in paths for key in _keys(_read(path).get(group))}


def _keys(node) -> set[str]:
    return set(node) if isinstance(node, DictConfig) else set()


@functools.cache
def _read(path: Path) -> DictConfig:
    """A yaml as it stands; nothing where it is no mapping, or no yaml."""
    try:
        found = OmegaConf.load(path)
    except Exception:  # not a file that the run itself reads
        found = None
    return found if isinstance(found, DictConfig) else OmegaConf.create({})
