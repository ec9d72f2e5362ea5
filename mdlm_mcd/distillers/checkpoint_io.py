"""Write checkpoints atomically and keep one backup."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from ..checkpoints.files import damage
from ..checkpoints.unpickling import reason
from ..errors import CheckpointError

log = logging.getLogger(__name__)

LAST, PREVIOUS, PART = "last.ckpt", "last.previous.ckpt", ".part"


def use_safe_files(strategy) -> None:
    """Have a Lightning strategy write by `SafeCheckpointIO`, unless the user set another."""
    if type(strategy.checkpoint_io) is not TorchCheckpointIO:
        return
    strategy.checkpoint_io = files = SafeCheckpointIO()
    if isinstance(strategy, FSDPStrategy):
        # Saved through a CheckpointIO, but read without one.
        read = strategy.load_checkpoint
        strategy.load_checkpoint = lambda path, *args, **kwargs: read(
            files.sound(path), *args, **kwargs
        )


def own_last(trainer, folder: str) -> None:
    """Have Lightning's own checkpoints write `folder/last.ckpt`, whatever is there.

    Else they take it for another run's and write `last-v1.ckpt`, from which nothing goes on.
    """
    for callback in trainer.checkpoint_callbacks:
        if getattr(callback, "save_last", None) and not callback.last_model_path:
            if os.path.realpath(callback.dirpath) == os.path.realpath(folder):
                callback.last_model_path = os.path.join(callback.dirpath, LAST)


class SafeCheckpointIO(TorchCheckpointIO):
    """`torch.save` to a file beside the target, which then takes its name.

    The `last.ckpt` before it is kept as `last.previous.ckpt`. Addresses with a scheme
    (s3://) are left to Lightning.
    """

    def __init__(self):
        super().__init__()
        self._damaged: set[Path] = set()  # what must not become the backup

    def save_checkpoint(self, checkpoint, path, storage_options=None) -> None:
        """Save atomically. Raises CheckpointError where the disk takes no file."""
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        part = target.with_name(target.name + PART)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            for left in target.parent.glob("*.ckpt" + PART):  # by a run that was killed
                left.unlink()
            write(checkpoint, part)
            if target.name == LAST and target.exists() and target not in self._damaged:
                keep(target, target.with_name(PREVIOUS))
            os.replace(part, target)
            sync(target.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            raise CheckpointError(
                f"checkpointing.save_dir={target.parent.parent} takes no checkpoint "
                f"({error.strerror or error}): free some space, make it writable or name another "
                "folder, and start the same command again; what was saved before is as it was."
            ) from error
        self._damaged.discard(target)

    def load_checkpoint(self, path, *args, **kwargs):
        return super().load_checkpoint(self.sound(path), *args, **kwargs)

    def sound(self, path: str | Path) -> str | Path:
        """Return `path`; in place of a damaged `last.ckpt` the one before it.

        Raises CheckpointError where there is none to go on from.
        """
        if "://" in str(path) or not os.path.exists(path):
            return path
        path = Path(path)
        if harm := damage(path):
            self._damaged.add(path)
            why = f"checkpointing.resume_ckpt_path={path} cannot be read: {harm}"
            previous = path.with_name(PREVIOUS)
            if path.name != LAST or not previous.exists() or damage(previous):
                raise cannot_resume(why)
            _warn(f"{why}. The run goes on from {previous}, the one before it.")
            path = previous
        try:  # with more than tensors and plain values it could run code
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # a damaged file fails in many ways
            raise cannot_resume(
                f"checkpointing.resume_ckpt_path={path} holds more than tensors and plain "
                f"values ({reason(error)})"
            ) from error
        return path


def cannot_resume(why: str) -> CheckpointError:
    return CheckpointError(
        f"{why}. Name another checkpoint, or start over with checkpointing.resume_from_ckpt=false."
    )


_warn = rank_zero_only(log.warning)


def write(checkpoint, path: Path) -> None:
    """Save with `torch.save` and flush to the disk. Raises OSError."""
    with path.open("wb") as file:
        recorded = Recorded(file)
        try:
            torch.save(checkpoint, recorded)
        except RuntimeError as error:
            # torch raises its own error after a failed write.
            raise recorded.error or error from error
        file.flush()
        os.fsync(file.fileno())


class Recorded:
    """A file for `torch.save` that keeps the system's error."""

    def __init__(self, file):
        self.file, self.error, self.flush = file, None, file.flush

    def write(self, data) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise


def keep(target: Path, previous: Path) -> None:
    """Give `target` a second name, atomically, where the file system has links."""
    part = previous.with_name(previous.name + PART)
    with contextlib.suppress(OSError):
        os.link(target, part)
        os.replace(part, previous)
        part.unlink(missing_ok=True)  # between two names of one file that move does nothing


def sync(folder: Path) -> None:
    """Flush a folder's names to the disk, where the system offers it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
