"""Load the hosts' modules with the CPU in place of the CUDA device they name.

The hosts write `"cuda"` into their code in a few places: `.to('cuda')`, the default of
a parameter `device`, an argument `device='cuda'`. These, and only these, are read as
`"cpu"` while a module of a host's folder is compiled. Its file is not touched, nor is
its bytecode cache. `autocast('cuda', ...)` names a kind of precision, no device, and
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
    """The hosts' folders, without the environments that lie in them."""

    def __init__(self):
        self._roots: list[Path] = []
        self.hold = functools.lru_cache(maxsize=None)(self._hold)

    def add(self, folder: str | os.PathLike) -> None:
        self._roots.append(Path(folder).resolve())
        self.hold.cache_clear()

    def _hold(self, path: str | None) -> bool:
        """Return whether a file or folder, given by its absolute path, is a host's."""
        if not path:
            return False
        path = Path(path).resolve()
        return any(
            path.is_relative_to(root)
            and not {"site-packages", "dist-packages"} & set(path.relative_to(root).parts)
            for root in self._roots
        )


def _rename(node: ast.AST | None) -> None:
    if isinstance(node, ast.Constant) and str(node.value).partition(":")[0] == "cuda":
        node.value = "cpu"


def _to_cpu(tree: ast.AST) -> None:
    """Rename the CUDA devices that a module names, in place."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = getattr(node.func, "attr", getattr(node.func, "id", None))
            named = [k.value for k in node.keywords if k.arg == "device"]
            for value in [*named, *(node.args[:1] if function in ("to", "device") else ())]:
                _rename(value)
        elif isinstance(node, ast.arguments):
            first = [*node.posonlyargs, *node.args]
            defaults = zip(reversed(first), reversed(node.defaults), strict=False)
            named = zip(node.kwonlyargs, node.kw_defaults, strict=True)
            for parameter, default in [*defaults, *named]:
                if parameter.arg == "device":
                    _rename(default)


def compiled(path: str | os.PathLike, source: str | bytes | None = None) -> CodeType:
    """Compile a host's file, with the CPU wherever it asks for a CUDA device.

    source: what to take for the file's text. Raises OSError when it cannot be read,
    SyntaxError when it is no Python.
    """
    source = Path(path).read_bytes() if source is None else source
    tree = ast.parse(source, filename=os.fspath(path))
    _to_cpu(tree)
    return compile(tree, os.fspath(path), "exec", dont_inherit=True)


class _HostLoader(SourceFileLoader):
    def get_code(self, fullname):
        # Past the bytecode cache, which would keep the changed code for others.
        return compiled(self.get_filename(fullname))


class HostFinder(MetaPathFinder):
    """Find modules of the hosts only, before the usual finder."""

    def __init__(self, folders: Folders):
        self.folders = folders

    def find_spec(self, name, path=None, target=None):
        # Cheap for the thousands of submodules of other packages.
        places = map(os.path.abspath, sys.path if path is None else path)
        if not any(map(self.folders.hold, places)):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if type(getattr(spec, "loader", None)) is not SourceFileLoader:
            return None
        if not self.folders.hold(spec.origin):
            return None
        spec.loader = _HostLoader(spec.loader.name, spec.loader.path)
        return spec
