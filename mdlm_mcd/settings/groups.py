"""Check that the config files a user chose reach the config that is read."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

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
    check_hidden()
    chosen, known = _chosen(), read_keys()
    sections = {str(key): config._get_node(key) for key in config}
    sections = {name: node for name, node in sections.items() if _is_section(node)}
    for name, node in sections.items():
        if known and name in chosen and name not in known:
            raise ConfigError(
                f"{chosen[name]} changes nothing, since its keys are under {name}, "
                f"which nothing reads: {REMEDY}."
            )
        for key in map(str, node):
            inside = node._get_node(key)
            if not _is_section(inside) or "_target_" in inside:
                continue
            if key == name or (key in sections and name in chosen):
                by = f" (of {chosen[name]})" if name in chosen else ""
                raise ConfigError(
                    f"{name}.{key} is a section within another, where nothing reads "
                    f"it{by}: a file of a group has that group's keys at its top; for "
                    f"those of other sections {REMEDY}."
                )
    for name in set(config) - known if known else ():
        meant = nearest(name, known, cutoff=0.8)
        if meant or (complete and name in sections):
            _refuse(name, meant)
    for name, node in sections.items() if complete else ():
        own = set() if "_target_" in node else read_keys(name)
        for key in set(node) - own if own else ():
            if meant := nearest(key, own):
                _refuse(f"{name}.{key}", f"{name}.{meant}")


def _refuse(key: str, meant: str | None) -> NoReturn:
    remedy = f"did you mean {meant}?" if meant else "take it out."
    raise ConfigError(f"{key} is a key that nothing reads: {remedy}")


def check_hidden() -> None:
    """Refuse a chosen file of the user's that another one hides. Raises ConfigError.

    Hydra looks into the application's folders first.
    """
    for group, option in _choices():
        sources = HydraConfig.get().runtime.config_sources
        found = [
            (source.provider, Path(source.path, group, f"{option}.yaml"))
            for source in sources
            if source.schema == "file"
        ]
        found = [(by, path) for by, path in found if path.is_file()]
        for by, path in found[1:]:
            users = by == "command-line" or by.startswith("hydra.searchpath")
            if users and not path.samefile(found[0][1]):
                raise ConfigError(
                    f"{group}={option} is {found[0][1]}, so {path} is never read: give "
                    "that file another name."
                )


def _choices() -> list[tuple[str, str]]:
    """Return (group, option) of the files chosen for the groups' own packages."""
    if not HydraConfig.initialized():
        return []
    hydra = HydraConfig.get()
    found = OmegaConf.to_container(hydra.runtime.choices)
    task = OmegaConf.to_container(hydra.overrides.task)
    for given in task:  # of several options Hydra keeps no account
        if several := re.fullmatch(r"\+*([\w/]+)=\[(.*)\]", given):
            found[several[1]] = several[2]
    return [
        (group, option.strip())
        for group, options in found.items()
        for option in str(options).split(",")
        if not group.startswith("hydra/") and "@" not in group
    ]


def _chosen() -> dict[str, str]:
    """Return what was chosen of each group, as on the command line."""
    found: dict[str, str] = {}
    for group, option in _choices():
        found.setdefault(group.partition("/")[0], f"{group}={option}")
    return found


def _is_section(node) -> bool:
    plain = isinstance(node, DictConfig) and not node._is_none()
    return plain and not node._is_interpolation() and not node._is_missing()


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
    ours = [*our_files("host*"), *our_files("sampler"), *our_files("algo")]
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
