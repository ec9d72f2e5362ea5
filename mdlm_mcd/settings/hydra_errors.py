"""Hydra's refusals of overrides, told in a sentence that says what was meant.

Imports Hydra alone, so `mdlm-mcd run` tells those of real hosts in the same words.
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
from omegaconf.errors import ConfigAttributeError, OmegaConfBaseException

from ..checkpoints.files import FULL, disk_full
from ..errors import ConfigError, first_line, printable

STUMBLED = (AssertionError, AttributeError, OSError, TypeError, ValueError)
UNKNOWN = re.compile(r"Could not override '([^']+)'")


def raised_by(error, libraries, beside=()):
    """Whether a library raised an error with no code of its callers in between."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [f.f_globals.get("__name__", "").partition(".")[0] for f in frames]
    first = next((i for i, name in enumerate(names) if name in libraries), len(names))
    fits = {*libraries, *beside, *sys.stdlib_module_names}
    return first < len(names) and fits.issuperset(names[first:])


def is_hydras(error):
    """Whether it is Hydra's refusal, or what Hydra stumbles over before a job."""
    beside = ("omegaconf", "yaml", "antlr4")
    return isinstance(error, CompactHydraException) or raised_by(error, {"hydra"}, beside)


def explain(error, overrides, config_dir, config_name="config"):
    """A ConfigError, the sentence for what ended Hydra before the program.

    overrides: what the command line gave, options such as `-m` included.
    """
    overrides = [o for o in overrides if "=" in o and not o.startswith(("-", "hydra"))]
    if isinstance(error, MissingConfigException):
        return _group(error)
    if isinstance(error, OverrideParseException):
        said = first_line(error.__cause__ or error)
        return ConfigError(
            f"{printable(error.override)} cannot be read as key=value ({said}): put a "
            "value with = , : or brackets in it into quotes that the shell leaves, "
            "'key=\"a=b.ckpt\"', and close what is opened."
        )
    if isinstance(error, InstantiationException):
        # "Error in call to target 'x.Y':\nTypeError(...)\nfull_key: trainer"
        keys = re.findall(r"^full_key: (\S+)", str(error), re.MULTILINE)
        return ConfigError(
            f"{keys[0] if keys else 'a part of the config'} cannot be made of its "
            f"settings ({first_line(error.__cause__ or error)}): change or leave out "
            "what that names."
        )
    if isinstance(error, OSError) and error.errno in FULL:
        return disk_full(error)
    if not isinstance(error, CompactHydraException):
        return _bare(error)
    found = UNKNOWN.search(str(error))
    if not isinstance(error, ConfigCompositionException) or not found:
        cause = error.__cause__
        if re.search("appears more than once|Multiple values for", str(error)):
            return ConfigError(
                f"{first_line(error)}: a group that the config has already takes no "
                "plus, and a recipe builds on one other at most; leave one out."
            )
        if cause and not str(error).strip():
            return unusable(cause)
        said = f"{first_line(error)} ({first_line(cause)})" if cause else str(error)
        return ConfigError(said)
    key = found[1]
    given = next((o for o in overrides if _key(o) == key), key)
    meant = _nearest(key, _composed(overrides, config_dir, config_name))
    if meant:
        return ConfigError(f"{given} names no key of the config: did you mean {meant}?")
    return ConfigError(f"{given} names no key of the config: a new one takes a plus, +{given}.")


def _said(error):
    """The first line of a message; of a bare assertion what it asserts."""
    frames = traceback.extract_tb(error.__traceback__)
    if frames and not str(error).strip():
        return frames[-1].line
    return first_line(error)


def _bare(error):
    """What Hydra stumbles over: a file of the user's, or a setting of its own."""
    where, said = _config_file(error), _said(error)
    if where is not None:
        mark = getattr(error, "problem_mark", None)
        where += f", line {mark.line + 1}," if mark else ""
        said = getattr(error, "problem", None) or said
        return ConfigError(f"{where} cannot be read as a config ({said}): mend it there.")
    if isinstance(error, OmegaConfBaseException):
        return unusable(error)
    if isinstance(error, OSError) and error.filename:
        return ConfigError(
            f"hydra.run.dir, or hydra.sweep.dir: {error.filename} cannot be made "
            f"({error.strerror}): name a folder that can."
        )
    if "Config group override" in said:
        return ConfigError(
            "Hydra cannot read these overrides: each takes a key before its =, and a "
            "group such as logger or data a name, not null (~logger leaves it out)."
        )
    return ConfigError(
        f"Hydra cannot begin with these settings ({type(error).__name__}: {said}): "
        "change what that names; HYDRA_FULL_ERROR=1 shows where it fails."
    )


def _config_file(error):
    """The file, or its name as a config, that Hydra was reading; None for none."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        here = frame.f_globals.get("__name__", "")
        if here.startswith("hydra._internal") and "load_config" in frame.f_code.co_name:
            names = (frame.f_locals.get(name) for name in ("full_path", "config_path"))
            return next(filter(None, names), None)
    return None


def unusable(error):
    """The sentence for a config that OmegaConf cannot read, say for its ${...}."""
    key = getattr(error, "full_key", None)
    if isinstance(error, ConfigAttributeError) and key:
        return ConfigError(
            f"{key} is not in the config, and is read here: a ~ took it out, or a file "
            "of yours lacks it; put it back."
        )
    where = f"{key}: " if key else ""
    return ConfigError(
        f"{where}the config cannot be read here ({first_line(error)}): look at that "
        "key, and at what its ${...} names."
    )


def lightnings(error):
    """Whether Lightning refuses the settings, or stumbles over one of them.

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


def refusal(error):
    """A ConfigError for what Lightning or a part of it refuses; None for others."""
    if isinstance(error, InstantiationException):
        return explain(error, [], "")
    if lightnings(error):
        return ConfigError(
            f"Lightning refuses these settings ({_said(error)}): change the keys of "
            "trainer, strategy or callbacks that this names."
        )
    return None


def _group(error):
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    if not group or not error.options:
        return ConfigError(f"{first_line(error)}: name a config that is there.")
    meant = difflib.get_close_matches(option, error.options, n=1)
    said = f"did you mean {group}={meant[0]}? " if meant else ""
    return ConfigError(
        f"{group}={option} is unknown: {said}Choose one of {', '.join(sorted(error.options))}."
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
