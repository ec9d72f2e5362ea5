"""Sentences for what Hydra, OmegaConf and Lightning refuse.

Where a library's own message is clear it is passed on, on one line. Imports no model,
so `mdlm-mcd run` explains the errors of real hosts in the same words.
"""

import difflib
import re
import sys
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
from omegaconf.errors import OmegaConfBaseException

from ..checkpoints.files import FULL, disk_full
from ..errors import ConfigError, first_line, printable

STUMBLED = (AssertionError, AttributeError, OSError, TypeError, ValueError)
UNKNOWN = re.compile(r"Could not override '([^']+)'")
MOST = 300  # letters of a library's message


def raised_by(error, libraries, beside=()):
    """Return whether a library raised an error with no code of its callers in between."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [f.f_globals.get("__name__", "").partition(".")[0] for f in frames]
    first = next((i for i, name in enumerate(names) if name in libraries), len(names))
    fits = {*libraries, *beside, *sys.stdlib_module_names}
    return first < len(names) and fits.issuperset(names[first:])


def is_hydras(error):
    """Return whether it is Hydra's refusal, or what Hydra stumbles over before a job."""
    beside = ("omegaconf", "yaml", "antlr4")
    return isinstance(error, CompactHydraException) or raised_by(error, {"hydra"}, beside)


def is_lightnings(error):
    """Return whether Lightning refuses the settings, or stumbles over one of them.

    With code of ours or the user's in between it may be a bug of that; what torch says
    in a step is no matter of settings.
    """
    if type(error).__name__ == "MisconfigurationException":
        return True
    frames = traceback.extract_tb(error.__traceback__)
    beside = ()
    if not frames or not (frames[-1].line or "").startswith("raise "):
        if not isinstance(error, STUMBLED):
            return False
        stepping = any(frame.name == "advance" for frame in frames)
        beside = ("fsspec",) if stepping else ("fsspec", "torch")
    return raised_by(error, {"lightning", "pytorch_lightning"}, beside)


def explain(error, overrides=(), config_dir="", config_name="config"):
    """Return a ConfigError, the sentence for what a library refuses; None for a bug.

    overrides: what the command line gave, options such as `-m` included.
    """
    known = (is_hydras, is_lightnings, lambda e: isinstance(e, OmegaConfBaseException))
    if isinstance(error, OSError) and error.errno in FULL:
        return disk_full(error)
    if not any(test(error) for test in known):
        return None
    words = _words(error)
    if isinstance(error, MissingConfigException):
        return _no_such_file(error)
    if isinstance(error, OverrideParseException):
        return ConfigError(
            f"{printable(error.override)} cannot be read as key=value ({words}): put a "
            "value with = , : or brackets in it into quotes that the shell leaves, "
            "'key=\"a=b.ckpt\"', and close what is opened."
        )
    if found := UNKNOWN.search(words):
        return _no_such_key(found[1], overrides, config_dir, config_name)
    if file := _config_file(error):
        return ConfigError(f"{file} cannot be read as a config ({words}): mend it there.")
    what = "the settings are refused"
    if is_lightnings(error):
        what = "Lightning refuses these settings"
    elif isinstance(error, InstantiationException):
        # "Error in call to target 'x.Y':\nTypeError(...)\nfull_key: trainer"
        keys = re.findall(r"^full_key: (\S+)", str(error), re.MULTILINE)
        what = f"{keys[0] if keys else 'a part of the config'} cannot be made of its settings"
        words = _words(error.__cause__ or error)
    return ConfigError(
        f"{what} ({words}): change what that names; HYDRA_FULL_ERROR=1 shows where it fails."
    )


def _words(error):
    """Return a library's message on one line; of a bare assertion what it asserts."""
    frames = traceback.extract_tb(error.__traceback__)
    words = " ".join(str(error).partition("\nSee https://")[0].split())
    if isinstance(error, CompactHydraException) and error.__cause__:
        cause = " ".join(str(error.__cause__).split())
        words = f"{words} ({cause})" if words else cause
    words = words or (frames[-1].line if frames else type(error).__name__)
    return printable(words[:MOST]).rstrip(".")


def _config_file(error):
    """Return the file, or its name as a config, that Hydra was reading; else None."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        here = frame.f_globals.get("__name__", "")
        if here.startswith("hydra._internal") and "load_config" in frame.f_code.co_name:
            names = (frame.f_locals.get(name) for name in ("full_path", "config_path"))
            return next(filter(None, names), None)
    return None


def _no_such_file(error):
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    if not group or not error.options:
        return ConfigError(f"{first_line(error)}: name a config that is there.")
    meant = difflib.get_close_matches(option, error.options, n=1)
    hint = f"did you mean {group}={meant[0]}? " if meant else ""
    return ConfigError(
        f"{group}={option} is unknown: {hint}Choose one of {', '.join(sorted(error.options))}."
    )


def _no_such_key(key, overrides, config_dir, config_name):
    overrides = [o for o in overrides if "=" in o and not o.startswith(("-", "hydra"))]
    given = next((o for o in overrides if _key(o) == key), key)
    meant = _nearest(key, _composed(overrides, config_dir, config_name))
    remedy = f"did you mean {meant}?" if meant else f"a new one takes a plus, +{given}."
    return ConfigError(f"{given} names no key of the config: {remedy}")


def _key(override):
    return override.partition("=")[0].partition("@")[0]


def _composed(overrides, config_dir, config_name):
    """Return the config without the overrides that it has no place for, or None."""
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
    """Return the key of the config that is nearest to a dotted one, or None."""
    every = list(_keys(config)) if isinstance(config, DictConfig) else []
    found = difflib.get_close_matches(key, every, n=1, cutoff=0.8)
    # `lr` for `optim.lr`, where that is the only one.
    deeper = [name for name in every if name.endswith("." + key)]
    found = found or (deeper if len(deeper) == 1 else [])
    return found[0] if found else None


def _keys(config, prefix=""):
    """Yield dotted names of all keys, those of sections included."""
    for name in config:
        yield f"{prefix}{name}"
        node = config._get_node(name)
        if isinstance(node, DictConfig) and not node._is_none():
            yield from _keys(node, f"{prefix}{name}.")
