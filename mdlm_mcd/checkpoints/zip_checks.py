"""The zip files that `torch.save` writes, taken apart without trusting them.

torch itself believes what such a file says of its own sizes; a record is handed out
here only where the file is as long as it claims, and nothing is ever unpacked.
"""

from __future__ import annotations

import os
import pickle
import tarfile
import zipfile
from typing import IO, NamedTuple

MOST_PICKLE = 1 << 28  # bytes of the part that is no tensor; hosts write below 2^25

_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class Records(NamedTuple):
    """pickle: the name of the record that describes the rest. sizes: bytes by key."""

    pickle: str
    sizes: dict[str, int]

    def name(self, key: str) -> str:
        return f"{self.pickle.removesuffix('data.pkl')}data/{key}"


def _refuse(why: str) -> None:
    raise pickle.UnpicklingError(why)


def check(file: str | os.PathLike | IO[bytes]) -> None:
    """Raises UnpicklingError, saying what it is, for what is no zip file at all."""
    if zipfile.is_zipfile(file):
        return
    named = isinstance(file, (str, os.PathLike))
    if named and tarfile.is_tarfile(file):
        _refuse("it is a tar archive of an old torch")
    if not named:
        _refuse("it is not in the format that torch writes since 1.6")
    with open(file, "rb") as opened:
        start = opened.read(len(_OLD_TORCH))
    if start == _OLD_TORCH:
        _refuse("it is in torch's format from before 1.6; save it again with a newer torch")
    if start[:1] == b"\x80":
        _refuse(
            "it is a bare pickle, not weights; if it is an integral cache of Duo's, "
            "nothing here needs one, since those integrals are computed"
        )
    _refuse("it is not a file that torch.save wrote")


def records(archive: zipfile.ZipFile) -> Records:
    """What an open archive holds: the pickle's record, and the sizes of the tensors'.

    Raises UnpicklingError for a TorchScript program, which torch would run, and for
    what `torch.save` never writes: compressed records (which may unpack to any size),
    two of one name, records that overlap, big-endian tensors.
    """
    held = archive.infolist()
    names = [info.filename for info in held]
    if any("/code/" in n or n.endswith("constants.pkl") for n in names):
        _refuse("it is a TorchScript program, not weights")
    if len(set(names)) < len(names):
        _refuse("its archive holds two records of one name")
    if any(i.compress_type or i.flag_bits & 1 for i in held):
        _refuse("its archive is compressed or encrypted, which torch.save does not do")
    end = archive.fp.seek(0, os.SEEK_END)
    if any(i.file_size != i.compress_size for i in held) or end < sum(i.file_size for i in held):
        _refuse("its archive declares more than it holds")
    sizes = {info.filename: info.file_size for info in held}
    found = [n for n in names if n.rpartition("/")[2] == "data.pkl"]
    if len(found) != 1 or found[0].count("/") > 1:
        _refuse("its archive is not one that torch.save wrote")
    if sizes[found[0]] > MOST_PICKLE:
        _refuse(f"beside its tensors it pickles {sizes[found[0]]} bytes, far too many")
    folder = found[0].removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in sizes and (sizes[order] > 6 or archive.read(order) != b"little"):
        _refuse("its tensors are big-endian; save them again on a common machine")
    prefix = f"{folder}data/"
    return Records(
        found[0], {n.removeprefix(prefix): s for n, s in sizes.items() if n.startswith(prefix)}
    )
