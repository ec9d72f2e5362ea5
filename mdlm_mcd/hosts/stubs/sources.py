"""Host modules as they are loaded: the device they name becomes the CPU.

The hosts write `"cuda"` into their code in a few places: `.to('cuda')`, the default of
a parameter `device`, an argument `device='cuda'`. These, and only these, are read as
`"cpu"` while a module of a host's folder is compiled. Its file is not touched, nor is
its bytecode cache. `autocast('cuda', ...)` is no place but a kind of precision and
stays; without CUDA it does nothing, as it should.
"""

from __future__ import annotations

import ast
import functools
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType


class Folders:
    """The hosts' folders. Environments that lie in them are no part of them."""

    def __init__(self):
        self._roots: list[Path] = []
        self.hold = functools.lru_cache(maxsize=None)(self._hold)

    def add(self, folder: str | os.PathLike) -> None:
        self._roots.append(Path(folder).resolve())
        self.hold.cache_clear()

    def _hold(self, path: str | None) -> bool:
        """Whether a file or folder, given by its absolute path, belongs to a host."""
        if not path:
            return False
        path = Path(path).resolve()
        return any(
            path.is_relative_to(root)
            and not {"site-packages", "dist-packages"} & set(path.relative_to(root).parts)
            for root in self._roots
        )


def _cuda(node: ast.AST | None) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.partition(":")[0] == "cuda"
    )


class _ToCPU(ast.NodeTransformer):
    def visit_Call(self, node):
        self.generic_visit(node)
        function = getattr(node.func, "attr", getattr(node.func, "id", None))
        named = [k.value for k in node.keywords if k.arg == "device"]
        for value in [*named, *(node.args[:1] if function in ("to", "device") else ())]:
            if _cuda(value):
                value.value = "cpu"
        return node

    def visit_arguments(self, node):
        self.generic_visit(node)
        first = [*node.posonlyargs, *node.args]
        defaults = zip(reversed(first), reversed(node.defaults), strict=False)
        named = zip(node.kwonlyargs, node.kw_defaults, strict=True)
        for parameter, default in [*defaults, *named]:
            if parameter.arg == "device" and _cuda(default):
                default.value = "cpu"
        return node


def compiled(path: str | os.PathLike, source: str | bytes | None = None) -> CodeType:
    """The code of a host's file, with the CPU wherever it asks for a CUDA device.

    source: what to take for the file's text. Raises OSError when it cannot be read,
    SyntaxError when it is no Python.
    """
    source = Path(path).read_bytes() if source is None else source
    tree = ast.parse(source, filename=os.fspath(path))
    return compile(_ToCPU().visit(tree), os.fspath(path), "exec", dont_inherit=True)


class _HostLoader(SourceFileLoader):
    def get_code(self, fullname):
        # Past the bytecode cache, which would keep the changed code for others.
        return compiled(self.get_filename(fullname))


class HostFinder(MetaPathFinder):
    """Goes before the usual finder and answers for modules of the hosts only."""

    def __init__(self, folders: Folders):
        self.folders = folders

    def find_spec(self, name, path=None, target=None):
        # Cheap for the thousands of modules that are no host's.
        tail = name.rpartition(".")[2]
        for place in sys.path if path is None else path:
            place = os.path.abspath(place)
            if self.folders.hold(place) and (
                os.path.isfile(os.path.join(place, f"{tail}.py"))
                or os.path.isdir(os.path.join(place, tail))
            ):
                break
        else:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if (
            spec is None
            or type(spec.loader) is not SourceFileLoader
            or not self.folders.hold(spec.origin)
        ):
            return None
        spec.loader = _HostLoader(spec.loader.name, spec.loader.path)
        return spec
