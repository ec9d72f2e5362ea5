"""The host's own refusals; `main` prints them without a traceback."""

import errno
import os
import tempfile


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


def check_writable(key: str, folder) -> None:
    """Make the folder. Raises HostError where no file can be written into it."""
    if "://" in str(folder):
        return  # Lightning's, not this disk's
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise HostError(
            f"{key}: {folder} cannot be written ({error.strerror}): name another."
        ) from error


FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS)


def disk_full(error: OSError) -> HostError:
    """The sentence for a write that the disk refused, with an errno of FULL."""
    where = f" to {error.filename}" if error.filename else ""
    return HostError(
        f"The disk takes no more{where} ({error.strerror}): free some space or name "
        "another folder, e.g. in checkpointing.save_dir, and start the same command "
        "again."
    )


def first_line(error: Exception) -> str:
    """What an error of a library says, short enough to stand inside a sentence."""
    said = str(error).strip() or type(error).__name__
    return said.splitlines()[0].rstrip(".:")
