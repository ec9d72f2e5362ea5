"""Pass on what Hydra, OmegaConf and Lightning refuse: in their words, on one line.

Imports no model, so that `mdlm-mcd run` explains the errors of real hosts alike.
"""

from hydra.errors import CompactHydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException

from ..checkpoints.files import FULL, disk_full
from ..errors import ConfigError, MCDError, cause, printable
from . import console

REFUSALS = (CompactHydraException, OmegaConfBaseException)
MOST = 500  # letters of a library's message


def explain(error):
    """Return the error as one of ours, for the user; None for a bug.

    Other exceptions of a library keep their traceback.
    """
    if isinstance(error, MCDError):
        return error
    if isinstance(error, OSError) and error.errno in FULL:
        return disk_full(error)
    kind = type(error)
    # Lightning's class has another module from release to release.
    known = kind.__module__.startswith("yaml.") or kind.__name__ == "MisconfigurationException"
    if not known and not isinstance(error, REFUSALS):
        return None
    lines = str(error).partition("\nSee https://")[0].split("\n")
    words = " ".join(printable(line.strip(" \t")) for line in lines if line.strip())
    # The message of an instantiation has its cause already.
    if error.__cause__ and not isinstance(error, InstantiationException):
        words += f" ({cause(error.__cause__)})"
    words = words[:MOST].rstrip(".:")
    return ConfigError(f"{words}: change that setting; HYDRA_FULL_ERROR=1 shows where it fails.")


def ending(error, name=None):
    """Return the sentence that an error ends a program in; None where its traceback is due.

    name: the program's, in place of the error's class.
    """
    known = explain(error)
    if known is None or console.wants_traceback():
        return None
    return console.sentence(f"{name or type(known).__name__}: {known}")
