"""The host's own refusals; `main` prints them without a traceback."""


class HostError(ValueError):
    """A setting or a file that cannot work, said in one sentence."""


def check_choices(model: str, checks: dict):
    """checks: {key: (value, allowed)}. Raises HostError for the first that is not."""
    for key, (value, allowed) in checks.items():
        if value not in allowed:
            raise HostError(
                f"{key}={value} does not work with {model}: choose one of "
                f"{', '.join(map(str, sorted(allowed)))}."
            )
