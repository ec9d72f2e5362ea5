"""Pass on what Hydra, OmegaConf and Lightning refuse: in their words, on one line.

Imports no model, so that `mdlm-mcd run` explains the errors of real hosts alike.
"""

from hydra.errors import CompactHydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..checkpoints.files import FULL, disk_full
from ..errors import ConfigError, MCDError, cause, printable

REFUSALS = (CompactHydraException, OmegaConfBaseException, YAMLError)
MOST = 500  # letters of a library's message


def explain(error):
    """Return the error as one of ours, for the user; None for a bug.

    Other exceptions of a library keep their traceback.
    """
    if isinstance(error, MCDError):
        return error
    if isinstance(error, OSError) and error.errno in FULL:
        return disk_full(error)
    # Lightning's class has another module from release to release.
    if not isinstance(error, REFUSALS) and type(error).__name__ != "MisconfigurationException":
        return None
    lines = str(error).partition("\nSee https://")[0].split("\n")
    words = " ".join(printable(line.strip()) for line in lines if line.strip())
    # The message of an instantiation has its cause already.
    if error.__cause__ and not isinstance(error, InstantiationException):
        words += f" ({cause(error.__cause__)})"
    words = words[:MOST].rstrip(".:")
    return ConfigError(f"{words}: change that setting; HYDRA_FULL_ERROR=1 shows where it fails.")
