"""Keys that nobody reads: refused, with the key that was meant."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ..errors import ConfigError
from ..settings.groups import (
    check_groups,
    keys_of,
    main_folders,
    nearest,
    of_files,
    our_files,
    read,
)


def check_keys(config: DictConfig) -> None:
    """Raises ConfigError for keys of `algo` that neither we nor the host read.

    Hydra refuses a key that is nowhere, but not with a plus, nor in a file of the
    user's. Of `sampling`, which is the host's, only what looks like a key of ours.
    """
    check_groups(config)
    algo = config.algo
    own = [f for f in our_files("algo") if read(f).algo._target_ == algo.get("_target_")]
    # What another class reads is not known here.
    known = of_files([*own, *our_files("layouts/*")], "algo") | _of_host("algo")
    for key in algo if own else ():
        if key not in known and not key.startswith("_"):
            meant = nearest(key, known)
            raise ConfigError(
                f"algo.{key}={algo._get_node(key)} is read neither by algo={algo.name} "
                "nor by the host: " + (f"did you mean algo.{meant}?" if meant else "take it out.")
            )
    sampling = config.get("sampling", {})
    ours = of_files(our_files("sampler"), "sampling")
    for key in sorted(set(sampling) - ours - _of_host("sampling")):
        if meant := nearest(key, ours):
            raise ConfigError(
                f"sampling.{key}={sampling._get_node(key)} is no key of a sampler: did "
                f"you mean sampling.{meant}?"
            )


def _of_host(group: str) -> set[str]:
    """Keys of a group in the files of the application that is running.

    Not in the one chosen, which may be the user's and hold the typo.
    """
    folders = main_folders()
    chosen = HydraConfig.get().runtime.choices.get(group) if folders else None
    named = [p for f in folders for p in f.glob(f"{group}/*.yaml") if p.stem != chosen]
    plain = {key for path in named for key in keys_of(read(path))}
    whole = [p for f in folders for p in f.glob("config.yaml")]
    return plain | of_files([*named, *whole], group)
