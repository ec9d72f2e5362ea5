"""Pickles put together by hand, those that mean harm among them."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile

HARM = (
    "os system",
    "posix system",
    "builtins exec",
    "builtins eval",
    "__builtin__ eval",
    "builtins getattr",
    "builtins __import__",
    "builtins open",
    "subprocess Popen",
    "importlib import_module",
    "runpy run_path",
    "operator methodcaller",
    "operator attrgetter",
    "functools partial",
    "functools reduce",
    "types FunctionType",
    "shutil rmtree",
    "pathlib Path.touch",
    "torch.hub load",
    "torch load",
    "torch.storage _load_from_bytes",
    "torch.serialization load",
    "torch.jit load",
    "torch from_file",
    "torch._utils _rebuild_tensor",
    "torch UntypedStorage",
    "torch.utils.model_zoo load_url",
    "numpy load",
    "numpy fromfile",
    "numpy memmap",
    "numpy.core.multiarray _reconstruct",
    "numpy._core.multiarray _reconstruct",
    "codecs decode",
    "copyreg _reconstructor",
    "copyreg __newobj__",
    "zipfile ZipFile",
    "collections OrderedDict.fromkeys",
    "builtins bytearray",
    "builtins bytes",
    "builtins list",
    "builtins map",
    "builtins range",
    "weakref finalize",
    "atexit register",
    "signal alarm",
    "webbrowser open",
    "ctypes CDLL",
    "mdlm_mcd.checkpoints.files write_json",
    "omegaconf.dictconfig DictConfig",
)


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    return (
        b"\x8a"
        + bytes([n := value.bit_length() // 8 + 1])
        + value.to_bytes(n, "little", signed=True)
    )


def call(name: str, *args: bytes, how: bytes = b"R") -> bytes:
    module, _, function = name.partition(" ")
    if "." in function:  # a path of attributes, which only STACK_GLOBAL follows
        found = text(module) + text(function) + b"\x93"
    else:
        found = f"c{module}\n{function}\n".encode()
    return found + b"(" + b"".join(args) + b"t" + how


def storage(count: int = 4, key: str = "0", kind: str = "FloatStorage") -> bytes:
    return (
        b"("
        + text("storage")
        + f"ctorch\n{kind}\n".encode()
        + text(key)
        + text("cpu")
        + number(count)
        + b"tQ"
    )


def tensor(size=(4,), stride=(1,), offset=0, stored: bytes | None = None) -> bytes:
    numbers = [b"(" + b"".join(map(number, part)) + b"t" for part in (size, stride)]
    return call(
        "torch._utils _rebuild_tensor_v2",
        stored or storage(),
        number(offset),
        *numbers,
        b"\x89",
        call("collections OrderedDict"),
    )


def harm(name: str, command: str) -> bytes:
    """A call of what may do harm, by one of the ways that pickle knows."""
    return call(name, text(command))


def bombs(deepest: int = 2_000) -> dict[str, bytes]:
    """Small pickles that ask for much: memory, time, depth, foreign memory."""
    deep = b")" + b"\x85" * deepest
    laughs = b"]q\x00" + b"".join(b"0](" + b"h%c" % n * 10 + b"eq%c" % (n + 1) for n in range(40))
    copies = (
        b"]("
        + b"K\x01" * 2_000
        + b"eq\x00"
        + b"("
        + (call("builtins set", b"h\x00") * 1_000 + b"t")
    )
    return {
        "nested key": b"}" + deep + b"K\x01s",
        "nested member": call("builtins set", b"](" + deep + b"e"),
        "nested list": b"]" + b"]" * deepest + b"a" * deepest,
        "laughs": b"}" + text("config") + laughs + b"s",
        "itself": b"]q\x00h\x00a",
        "copies": copies,
        "bytearray": call("builtins bytearray", number(1 << 40)),
        "bytearray8": b"\x96" + struct.pack("<Q", 1 << 40),
        "bytes8": b"\x8e" + struct.pack("<Q", 1 << 62),
        "storage": call("torch UntypedStorage", number(1 << 40)),
        "long": b"\x8b" + struct.pack("<I", 1 << 20) + b"\x7f" * (1 << 20),
        "short": tensor(stored=storage(1 << 34), size=(1 << 34,)),
        "offset": tensor(offset=1 << 30),
        "expanded": tensor(size=(1 << 20, 1 << 20), stride=(0, 0)),
        "empty": tensor(size=(0, 1 << 47), stride=(1, 1)),
        "negative": tensor(size=(-4,), stride=(-1,)),
        "attribute": call("collections OrderedDict")
        + b"}"
        + text("items")
        + call("builtins set")
        + b"sb",
        "class": b"ctorch\nUntypedStorage\nN}" + text("canary") + b"K\x01s\x86b",
        "extension": b"\x82\x01",
        "default": call("collections defaultdict", b"cbuiltins\nlist\n"),
    }


def stream(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def archive(records: dict[str, bytes], compress: bool = False) -> bytes:
    out = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", kind) as file:
        for name, data in records.items():
            file.writestr(name, data)
    return out.getvalue()


def checkpoint(body: bytes, **more: bytes) -> bytes:
    """A file as torch.save writes it, around any object: one float32 (4,) stored."""
    return archive(
        {
            "x/data.pkl": stream(body),
            "x/byteorder": b"little",
            "x/data/0": b"\0" * 16,
            "x/version": b"3\n",
            **more,
        }
    )


def as_hyper(body: bytes) -> bytes:
    """The object as the `config` of a checkpoint that holds a tensor as well."""
    held = b"}" + text("hyper_parameters") + b"}" + text("config") + body + b"ss"
    named = b"}" + text("w") + tensor() + b"s"
    return held + text("state_dict") + named + b"s"


def operations(data: bytes) -> list[int]:
    """Where each operation of a pickle begins, as far as it can be told."""
    import pickletools

    found = []
    try:
        for _, _, at in pickletools.genops(data):
            found.append(at)
    except (ValueError, IndexError, KeyError, pickle.UnpicklingError):
        pass
    return found or [0]
