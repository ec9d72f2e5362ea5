"""Check that the config files a user chose reach the config that is read."""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Iterable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from .. import configs_dir
from ..errors import ConfigError

REMEDY = "begin the file with the line `# @package _global_`, without a byte-order mark before it"


def check_groups(config: DictConfig, complete: bool = False) -> None:
    """Refuse keys of a chosen file that lie where nothing reads them.

    A file without its package line has them under the name of its group, and Hydra is
    content. complete: the application's files name every key that is read, so that
    what is near one of them, or a section beside them, is refused as well. (A section
    with a `_target_` is checked by that.) Raises ConfigError.
    """
    _check_hidden()
    known, sections = read_keys(), _sections(config)
    for name in sorted(set(config) - known if known else ()):
        _check_spelling(name, known, cutoff=0.8)
        if name in sections and (complete or name in _groups()):
            raise ConfigError(
                f"{name} is a section that nothing reads: take it out, or, where it is of a "
                f"file for other sections, {REMEDY}."
            )
    for name, node in sections.items():
        inside = _sections(node)
        classes = {key for key, section in inside.items() if "_target_" in section}
        for key in inside:
            if key not in classes and (key == name or (key in sections and name in _groups())):
                raise ConfigError(
                    f"{name}.{key} is a section within another, where nothing reads it: a file "
                    f"of a group has that group's keys at its top; for other sections {REMEDY}."
                )
        own = read_keys(name) if complete and "_target_" not in node else set()
        for key in sorted(set(node) - classes - own) if own else ():
            _check_spelling(key, own, prefix=f"{name}.")


def _check_hidden() -> None:
    """Refuse a chosen file of the user's that one of ours hides.

    Hydra looks into `--config-dir` and `hydra.searchpath` last.
    """
    runtime = HydraConfig.get().runtime if HydraConfig.initialized() else None
    sources = [source.path for source in runtime.config_sources] if runtime else []
    ours = str(configs_dir())
    later = sources[sources.index(ours) + 1 :] if ours in sources else []
    for group, option in runtime.choices.items() if later else ():
        file = Path(group, f"{option}.yaml")
        for folder in map(Path, later):
            if (configs_dir() / file).is_file() and (folder / file).is_file():
                raise ConfigError(
                    f"{group}={option} is the file of mdlm-mcd, and {folder / file} is not read: "
                    "give it another name."
                )


def _check_spelling(key: str, known: set[str], prefix: str = "", cutoff: float = 0.75) -> None:
    if meant := nearest(key, known, cutoff):
        raise ConfigError(
            f"{prefix}{key} is a key that nothing reads: did you mean {prefix}{meant}?"
        )


def _groups() -> set[str]:
    """Return the groups of which a file was chosen, and all of ours."""
    # Of several options, `+recipe=[a,b]`, Hydra keeps no account.
    chosen = HydraConfig.get().runtime.choices if HydraConfig.initialized() else ()
    return {str(group).partition("/")[0] for group in chosen} | set(os.listdir(configs_dir()))


def _is_section(node) -> bool:
    plain = isinstance(node, DictConfig) and not node._is_none()
    return plain and not node._is_interpolation() and not node._is_missing()


def _sections(node: DictConfig) -> dict[str, DictConfig]:
    return {str(key): inside for key in node if _is_section(inside := node._get_node(key))}


def nearest(key: str, known: Iterable[str], cutoff: float = 0.75) -> str | None:
    """Return the known key that was probably meant, or None."""
    found = difflib.get_close_matches(key, sorted(known), n=1, cutoff=cutoff)
    return found[0] if found else None


# What is known ------------------------------------------------------------------------


def main_folders() -> list[Path]:
    """Return the config folders of the application that is running."""
    if not HydraConfig.initialized():
        return []
    return [
        Path(source.path)
        for source in HydraConfig.get().runtime.config_sources
        if source.provider == "main" and source.schema == "file"
    ]


def read_keys(section: str | None = None) -> set[str]:
    """Return the keys of a section, or of the root, in the application's files and ours."""
    folders = main_folders()
    whole = [path for f in folders for path in f.glob("*.yaml")]
    if not whole:
        return set()
    ours = [*our_files("host*"), *our_files("sampler"), *our_files("distiller"), *our_files("algo")]
    if section is None:
        groups = {p.name for f in folders for p in f.iterdir() if p.is_dir()}
        groups -= {"recipe", "sampler"}  # whose files are for the root
        return groups | {key for path in [*whole, *ours] for key in read(path)}
    plain = {key for f in folders for p in f.glob(f"{section}/*.yaml") for key in read(p)}
    return plain | of_files([*whole, *ours], section)


def our_files(folder: str) -> list[Path]:
    return sorted(configs_dir().glob(f"{folder}/**/*.yaml"))


def of_files(paths: Iterable[Path], section: str) -> set[str]:
    return {key for path in paths for key in keys_of(read(path)._get_node(section))}


def keys_of(node) -> set[str]:
    return set(node) if _is_section(node) else set()


@functools.cache
def read(path: Path) -> DictConfig:
    """Return a YAML file as it stands; empty where it is no mapping, or no YAML."""
    try:
        found = OmegaConf.load(path)
    except Exception:  # not a file that the run itself reads
        found = None
    return found if isinstance(found, DictConfig) else OmegaConf.create({})
