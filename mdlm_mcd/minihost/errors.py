"""The host's own refusals; `main` prints them without a traceback."""


class HostError(ValueError):
    """A setting or a file that cannot work, said in one sentence."""
