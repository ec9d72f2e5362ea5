"""Write files as a whole, and find the checkpoints that are whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError, shown


def damage(path: str | os.PathLike) -> str | None:
    """Return what is wrong with the archive that is a checkpoint; None if nothing is.

    Every checksum is compared, which `torch.load` does not do. Refused are also TorchScript
    programs, which torch may run, and archives that may unpack to any size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            names = {part.filename for part in parts}
            if any(name.endswith("constants.pkl") for name in names):
                return "it is a TorchScript program"
            if len(names) < len(parts) or any(part.compress_type for part in parts):
                return "torch.save compresses nothing and writes each name once"
            bad = archive.testzip()
    except Exception:  # half a file fails in many ways, none of them of use
        return "it is no whole file of torch 1.6 or newer"
    return bad and f"the checksum of {shown(bad)} in it is wrong"


def make_folder(path: Path) -> Path:
    """Make the folder that `--out` names, by `check_writable`; return its absolute path."""
    path = Path(expanded(path, "--out"))
    check_writable(f"--out {path}", path)
    return path.resolve()


def newest_checkpoint(folder: Path) -> tuple[Path | None, int]:
    """Return the whole checkpoint of the highest step, and that step; else (None, 0).

    Of several `last.ckpt`.
    """
    newest, most = None, 0
    for path in sorted(folder.glob("*.ckpt"), key=lambda path: (path.name != "last.ckpt", path)):
        if (step := step_of(path)) > most:
            newest, most = path, step
    return newest, most


def step_of(path: Path) -> int:
    """Return a checkpoint's optimizer step; 0 of what is no whole checkpoint."""
    with contextlib.suppress(Exception):
        if not damage(path):
            # mmap: reads the header and the pickle, not the weights. One that was written on a
            # GPU would be moved there, or not open.
            return int(torch.load(path, "cpu", weights_only=True, mmap=True)["global_step"])
    return 0


def resume_path(config: Mapping[str, Any]) -> str | None:
    """Return the checkpoint that a run's settings name to go on from, there or not."""
    kept = config.get("checkpointing", {})
    path = kept.get("resume_ckpt_path") if kept.get("resume_from_ckpt") else None
    return str(path) if path else None


def found_resume_path(config: Mapping[str, Any], exists: Callable[[str], bool]) -> str | None:
    """Return the checkpoint to go on from; None for a fresh start.

    A job that may be requeued names the run's own `last.ckpt` before there is one. Raises
    ConfigError where any other is not there, or stands before the run's own: a job that is
    started again by the same command would lose its work each time.
    """
    if not (path := resume_path(config)):
        return None
    own = os.path.join(config["checkpointing"]["save_dir"], "checkpoints", "last.ckpt")
    if os.path.realpath(path) == os.path.realpath(own):
        return path if exists(path) else None
    if not exists(path):
        raise ConfigError(
            f"checkpointing.resume_ckpt_path={path} is not there: give an absolute path (hosts look"
            " from the run's folder), or begin anew with checkpointing.resume_from_ckpt=false."
        )
    here, there = (0, 0) if "://" in path else (step_of(Path(own)), step_of(Path(path)))
    if here > there > 0:  # 0: what is not read here, a host refuses or opens
        raise ConfigError(
            f"checkpointing.resume_ckpt_path={path} stands at step {there}, and {own}, which this "
            f"run would replace, at step {here}: leave the key out to go on from there, or name "
            "another hydra.run.dir."
        )
    return path


def check_writable(setting: str, folder: Path | str) -> None:
    """Make a folder, and refuse one into which no file can be written.

    setting: what named it, as in `--out x/y.jsonl`. A URL is left to Lightning. Raises
    ConfigError.
    """
    if "://" in str(folder):
        return
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"{setting} cannot be written ({error.strerror}: {folder}): name a place that can."
        ) from error


def check_overwrite(setting: str, path: Path, foreign: Callable[[Path], str]) -> None:
    """Refuse to write over what the command did not write; an empty file is free.

    setting: what named `path`, as in `--out x.html`. foreign(path): why a file that
    exists is not the command's; empty where it is. Raises ConfigError.
    """
    try:
        if path.is_dir():
            raise ConfigError(f"{setting} is a folder: name a file.")
        empty = path.is_file() and not path.stat().st_size
        why = foreign(path) if path.exists() and not empty else ""
    except OSError as error:
        raise ConfigError(f"{setting} cannot be read ({error.strerror}): name another.") from error
    if why:
        raise ConfigError(
            f"{setting} was not written by this command ({why}): it is left as it is; name another."
        )


FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS)


def disk_full(error: OSError) -> ConfigError:
    """Return the error for a write that the disk refused, with an errno of FULL."""
    where = f" to {error.filename}" if error.filename else ""
    return ConfigError(
        f"The disk takes no more{where} ({error.strerror}): free some space or name "
        "another folder, in --out, hydra.run.dir or checkpointing.save_dir, and start the "
        "same command again."
    )


def sha256(path: Path) -> str:
    """Hash a file, or a folder's weights, config and tokenizer, in hex; empty without any."""
    suffixes = (".safetensors", ".bin", ".pt", ".ckpt", ".gguf", ".json", ".model", ".txt")
    inside = path.glob("*.*") if path.is_dir() else ()
    found = sorted(p for p in inside if p.suffix in suffixes) or [path] * path.is_file()
    digest = hashlib.sha256()
    for file in found:
        with file.open("rb") as opened:
            while part := opened.read(1 << 20):
                digest.update(part)
    return digest.hexdigest() if found else ""


def read_json(path: Path, default):
    """Return what a JSON file contains; `default` when it is missing or was cut short."""
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except (FileNotFoundError, ValueError, RecursionError):
        return default


def write_json(path: Path, value) -> None:
    """Replace a file by the value as JSON, as a whole."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False))


def write_text(path: Path, text: str) -> None:
    """Replace a file as a whole; an interruption leaves the old one."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, "utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


# The models that come with the package, by names like those of the Hub; see `assets/README.md`.
ASSETS = Path(__file__).parents[1] / "assets"
SHIPPED = {f"mdlm-mcd/{name}": str(ASSETS / name) for name in ("teacher", "judge")}


def expanded(path: str | os.PathLike, key: str) -> str:
    """Return `path` with a leading `~` replaced by the home folder; of SHIPPED the folder.

    key: the setting that names it. Raises ConfigError where no such folder is known: the
    path would be a folder called `~` here.
    """
    found = os.path.expanduser(SHIPPED.get(str(path), path))
    if found.startswith("~") and not os.path.lexists(found.partition("/")[0]):
        raise ConfigError(f"{key}={path}: no home folder is known: set HOME, or give the folder.")
    return found
