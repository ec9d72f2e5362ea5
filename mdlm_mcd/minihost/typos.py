"""Hydra's refusals of overrides, told in a sentence that says what was meant.

Imports Hydra alone, so `mdlm-mcd run` tells those of real hosts in the same words.
"""

import difflib
import os
import re
import traceback

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import (
    CompactHydraException,
    ConfigCompositionException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig

from .errors import FULL, HostError, disk_full, first_line

FULL_ERROR = "HYDRA_FULL_ERROR"  # the user's wish to see tracebacks
_BARE = (AssertionError, TypeError, ValueError)
UNKNOWN = re.compile(r"Could not override '([^']+)'")


def hydra_raises():
    """Have Hydra raise what it refuses, and not print it; answers what undoes that."""
    asked = os.environ.get(FULL_ERROR)
    os.environ[FULL_ERROR] = "1"

    def undo():
        os.environ.pop(FULL_ERROR, None)
        if asked is not None:
            os.environ[FULL_ERROR] = asked

    return undo


def is_hydras(error):
    """Whether an error is Hydra's refusal, also a bare one from deep inside of it."""
    if isinstance(error, CompactHydraException):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    inside = bool(frames) and f"{os.sep}hydra{os.sep}_internal" in frames[-1].filename
    return isinstance(error, _BARE) and inside


def told(error, overrides, config_dir, config_name="config"):
    """A HostError, the sentence for what ended Hydra before the program.

    overrides: what the command line gave, options such as `-m` included.
    """
    overrides = [o for o in overrides if "=" in o and not o.startswith(("-", "hydra"))]
    if isinstance(error, MissingConfigException):
        return _group(error)
    if type(error) in _BARE:
        return HostError(
            "Hydra cannot read these overrides: each takes a key before its =, and a "
            "group such as logger or data a name, not null (~logger leaves it out)."
        )
    if isinstance(error, OverrideParseException):
        said = first_line(error.__cause__ or error)
        return HostError(
            f"{error.override} cannot be read as key=value ({said}): put a value with "
            "= , : or brackets in it into quotes that the shell leaves, "
            "'key=\"a=b.ckpt\"', and close what is opened."
        )
    if isinstance(error, InstantiationException):
        # "Error in call to target 'x.Y':\nTypeError(...)\nfull_key: trainer"
        keys = re.findall(r"^full_key: (\S+)", str(error), re.MULTILINE)
        return HostError(
            f"{keys[0] if keys else 'a part of the config'} cannot be made of its "
            f"settings ({first_line(error.__cause__ or error)}): change or leave out "
            "what that names."
        )
    if isinstance(error, OSError) and error.errno in FULL:
        return disk_full(error)
    if isinstance(error, OSError):
        return HostError(
            f"hydra.run.dir: {error.filename} cannot be made ({error.strerror}): name "
            "a folder that can."
        )
    found = UNKNOWN.search(str(error))
    if not isinstance(error, ConfigCompositionException) or not found:
        cause = error.__cause__
        if re.search("appears more than once|Multiple values for", str(error)):
            return HostError(
                f"{first_line(error)}: a group that the config has already takes no "
                "plus, and a recipe builds on one other at most; leave one out."
            )
        return HostError(f"{error}\n{cause}" if cause else str(error))
    key = found[1]
    given = next((o for o in overrides if _key(o) == key), key)
    meant = _nearest(key, _composed(overrides, config_dir, config_name))
    if meant:
        return HostError(f"{given} names no key of the config: did you mean {meant}?")
    return HostError(
        f"{given} names no key of the config: a new one takes a plus, +{given}."
    )


def _group(error):
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    if not group or not error.options:
        return HostError(str(error))
    meant = difflib.get_close_matches(option, error.options, n=1)
    said = f"did you mean {group}={meant[0]}? " if meant else ""
    return HostError(
        f"{group}={option} is unknown: {said}Choose one of "
        f"{', '.join(sorted(error.options))}."
    )


def _key(override):
    return override.partition("=")[0].partition("@")[0]


def _composed(overrides, config_dir, config_name):
    """The config without the overrides that it has no place for; None for none."""
    while True:
        GlobalHydra.instance().clear()
        try:
            with hydra.initialize_config_dir(str(config_dir), version_base=None):
                return hydra.compose(config_name, overrides=overrides)
        except ConfigCompositionException as error:
            found = UNKNOWN.search(str(error))
            kept = [o for o in overrides if not found or _key(o) != found[1]]
            if len(kept) == len(overrides):
                return None
            overrides = kept
        except Exception:  # the sentence does without a suggestion
            return None


def _nearest(key, config):
    """The key of the config that is nearest to a dotted one, or None."""
    if not isinstance(config, DictConfig):
        return None
    every = list(_keys(config))
    found = difflib.get_close_matches(key, every, n=1, cutoff=0.8)
    # `lr` for `optim.lr`, where that is the only one.
    deeper = [name for name in every if name.endswith("." + key)]
    found = found or (deeper if len(deeper) == 1 else [])
    return found[0] if found else None


def _keys(config, prefix=""):
    """Dotted names of all keys, those of sections included."""
    for name in config:
        yield f"{prefix}{name}"
        node = config._get_node(name)
        if isinstance(node, DictConfig) and not node._is_none():
            yield from _keys(node, f"{prefix}{name}.")
