"""What can go wrong, said in one sentence that names key, value and remedy."""


class MCDError(Exception):
    """Root of everything this package raises on purpose."""


class ConfigError(MCDError, ValueError):
    """A setting that cannot work: the message names its key and a remedy."""


class CheckpointError(MCDError, ValueError):
    """A file of weights that does not fit what is asked of it."""


class TeacherError(MCDError, RuntimeError):
    """A teacher that changed between two round starts."""


class UnfinishedError(MCDError, RuntimeError):
    """A distillation that ended, without an error, before its last round."""


class DivergenceError(MCDError, RuntimeError):
    """A loss that is not finite or has left its scale."""
