"""PyTorch files opened without the classes, or any code, that they name.

Checkpoints of the public hosts pickle their Hydra config and their tokenizer. They
are read here by an unpickler that builds tensors and plain containers, imports
nothing, and leaves an inert placeholder for everything else. A file can neither run
code nor take much more time or memory than its own size justifies.
"""

from __future__ import annotations

import collections
import io
import os
import pickle
import zipfile
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..errors import shown
from . import safe_globals, zip_checks
from .safe_globals import CALLS, Foreign, Inert, checked, refuse
from .sanitize import DEEPEST, copy

MOST_STEPS = 2_000_000  # a pickled GPT-2 tokenizer with its merges: some 600,000
_CALLABLE = tuple(map(id, CALLS.values()))

# The operations of pickle's protocols 2 to 4 that `torch.save` can write. Left out:
# text forms, the extension registry, classes by INST and OBJ, buffers.
_OPERATIONS = (
    "PROTO",
    "FRAME",
    "STOP",
    "MARK",
    "POP",
    "POP_MARK",
    "DUP",
    "NONE",
    "NEWTRUE",
    "NEWFALSE",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
    "EMPTY_LIST",
    "APPEND",
    "APPENDS",
    "EMPTY_TUPLE",
    "TUPLE",
    "TUPLE1",
    "TUPLE2",
    "TUPLE3",
    "EMPTY_DICT",
    "SETITEM",
    "SETITEMS",
    "EMPTY_SET",
    "ADDITEMS",
    "FROZENSET",
    "BINGET",
    "LONG_BINGET",
    "BINPUT",
    "LONG_BINPUT",
    "MEMOIZE",
    "GLOBAL",
    "STACK_GLOBAL",
    "REDUCE",
    "NEWOBJ",
    "NEWOBJ_EX",
    "BUILD",
    "BINPERSID",
)


class _Table(dict):
    def __missing__(self, code: int):
        refuse(f"the pickle operation {bytes([code])!r} is not read")


class _Unpickler(pickle._Unpickler):  # in Python: only there operations can be refused
    """Reads a stream of bytes that is in memory as a whole.

    sizes: bytes of the stored tensors by key. skipped: takes the names left out.
    """

    def __init__(self, file, skipped: set[str], sizes: dict[str, int], **kwargs):
        super().__init__(file, **kwargs)
        self.skipped, self.sizes = skipped, sizes
        self.steps = MOST_STEPS
        # What calls may copy: each thing is written once, so twice is generous.
        self.copies = 2 * len(file.getbuffer()) + 1000
        self.known: dict[str, Foreign] = {}

    def find_class(self, module, name):
        if not (isinstance(module, str) and isinstance(name, str)):
            refuse("a type whose name is no text")
        if module == "__builtin__":  # torch writes the protocol of Python 2
            module = "builtins"
        full = f"{module}.{name}"
        for table in (CALLS, safe_globals.VALUES, self.known):
            if full in table:
                return table[full]
        if full not in safe_globals.QUIET:
            self.skipped.add(shown(full, 100))
        return self.known.setdefault(full, Foreign(full))

    def make(self, made, args: tuple):
        if not (isinstance(made, Foreign) or id(made) in _CALLABLE):
            refuse(f"a call of a {type(made).__name__} is not made")
        if not isinstance(args, tuple):
            refuse("a call without a tuple of arguments is not made")
        sized = (str, bytes, bytearray, list, tuple, dict, set, frozenset)
        self.copies -= sum(len(arg) for arg in args if isinstance(arg, sized))
        if self.copies < 0:
            refuse("it copies its own parts over and over")
        return made(*args)

    def load_reduce(self):
        args = self.stack.pop()
        self.stack[-1] = self.make(self.stack[-1], args)

    def load_newobj_ex(self):
        self.stack.pop()  # by keyword: nothing on the list takes any
        self.load_reduce()

    def load_build(self):
        # It sets attributes; on a class or a function they would be everybody's.
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, Inert):
            made.state = state
        elif isinstance(made, safe_globals.DType):
            made.build(state)
        elif isinstance(made, collections.OrderedDict):
            found = state.get("_metadata") if isinstance(state, dict) else None
            if isinstance(found, dict):  # torch's own, of a `state_dict`
                made._metadata = found
        elif not isinstance(made, safe_globals.Hyper):
            refuse(f"the state of a {type(made).__name__} is not read")

    def _fill(self, pairs: list) -> None:
        made = self.stack[-1]
        if isinstance(made, dict):
            for key, value in zip(pairs[::2], pairs[1::2], strict=True):
                made[checked(key)] = value
        elif not isinstance(made, Inert):
            refuse(f"entries of a {type(made).__name__} are not read")

    def load_setitem(self):
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def load_setitems(self):
        self._fill(self.pop_mark())

    def _extend(self, items: list) -> None:
        made = self.stack[-1]
        if type(made) is list:
            made.extend(items)
        elif type(made) is set:
            made.update(map(checked, items))
        elif not isinstance(made, Inert):
            refuse(f"members of a {type(made).__name__} are not read")

    def load_append(self):
        self._extend([self.stack.pop()])

    def load_appends(self):
        self._extend(self.pop_mark())

    def load_frozenset(self):
        self.append(safe_globals.set_of(frozenset, self.pop_mark()))

    def load_binpersid(self):
        saved = self.stack.pop()
        if not (isinstance(saved, tuple) and len(saved) == 5):
            refuse("a reference to something that is no stored tensor")
        what, kind, key, where, count = saved
        if what != "storage" or not hasattr(kind, "dtype") or type(count) is not int:
            refuse("a reference to something that is no stored tensor")
        held = self.sizes.get(key) if isinstance(key, str) else None
        if held is None or not 0 <= count * kind.dtype.itemsize <= held:
            refuse(f"a stored tensor of {count} numbers in {held or 0} bytes")
        self.append(self.persistent_load(saved))


def _counted(load):
    def step(self: _Unpickler) -> None:
        self.steps -= 1
        if self.steps < 0:
            refuse(f"its pickle takes more than {MOST_STEPS} steps")
        load(self)

    return step


def _dispatch():
    own = {
        "REDUCE": _Unpickler.load_reduce,
        "NEWOBJ": _Unpickler.load_reduce,
        "NEWOBJ_EX": _Unpickler.load_newobj_ex,
        "BUILD": _Unpickler.load_build,
        "SETITEM": _Unpickler.load_setitem,
        "SETITEMS": _Unpickler.load_setitems,
        "APPEND": _Unpickler.load_append,
        "APPENDS": _Unpickler.load_appends,
        "ADDITEMS": _Unpickler.load_appends,
        "FROZENSET": _Unpickler.load_frozenset,
        "BINPERSID": _Unpickler.load_binpersid,
    }
    table = _Table()
    for name in _OPERATIONS:
        code = getattr(pickle, name)[0]
        table[code] = _counted(own.get(name, pickle._Unpickler.dispatch[code]))
    return table


_Unpickler.dispatch = _dispatch()


# Reading --------------------------------------------------------------------------


def reader(skipped: set[str], sizes: dict[str, int]) -> SimpleNamespace:
    """A `pickle_module` for `torch.load`; notes in `skipped` what it leaves out.

    sizes: bytes of the stored tensors by key, from `archives.records`.
    """
    unpickler = type(
        "Unpickler",
        (_Unpickler,),
        {
            "__init__": lambda self, file, **kwargs: _Unpickler.__init__(
                self, file, skipped, sizes, **kwargs
            )
        },
    )
    return SimpleNamespace(
        Unpickler=unpickler,
        UnpicklingError=pickle.UnpicklingError,
        load=lambda file, **kwargs: refuse("not in the format torch writes since 1.6"),
        __name__=__name__,
    )


def load(path: str | os.PathLike) -> tuple[Any, set[str]]:
    """What `torch.save` wrote to `path`, on the CPU, and the types left out of it.

    torch's own reader is not used: it takes a tensor's size from the pickle, and reads
    beyond the end of one that is smaller. Raises UnpicklingError naming what was found
    where it is not on the list, and what zipfile, pickle and torch raise for a file
    that is spoilt.
    """
    zip_checks.check(path)
    skipped: set[str] = set()
    with zipfile.ZipFile(path) as archive:
        found = zip_checks.records(archive)
        stored: dict[str, Tensor] = {}

        def stored_tensor(saved) -> Tensor:
            _, kind, key, _, count = saved
            if key not in stored:
                raw = torch.empty(found.sizes[key], dtype=torch.uint8)
                with archive.open(found.name(key)) as file:
                    view, at = memoryview(raw.numpy()), 0
                    while at < len(view):  # fails on a file that was cut short
                        part = file.read(min(1 << 24, len(view) - at))
                        if not part:
                            refuse("a stored tensor is cut short")
                        view[at : at + len(part)] = part
                        at += len(part)
                stored[key] = raw
            return stored[key][: count * kind.dtype.itemsize].view(kind.dtype)

        stream = io.BytesIO(archive.read(found.pickle))
        unpickler = _Unpickler(stream, skipped, found.sizes, encoding="utf-8")
        unpickler.persistent_load = stored_tensor
        return unpickler.load(), skipped


def plain(value: Any) -> Any:
    """Containers, strings and numbers of a pickled config, OmegaConf's included.

    A node of OmegaConf keeps its children under `_content` or its value under
    `_val`. Whatever else is not plain becomes None; interpolations stay text. Raises
    ValueError where shared parts would make the copy grow beyond reason (`copy`).
    """

    def unwrap(value):
        for _ in range(DEEPEST):
            if not isinstance(value, Inert):
                return value
            state = value.state if isinstance(value.state, dict) else {}
            value = state.get("_content", state.get("_val"))
        return None

    return copy(value, unwrap)
