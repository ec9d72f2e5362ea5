"""`mdlm-mcd run`: a host's own main.py, patched in memory, on any machine.

Runs as `python -m mdlm_mcd.hosts.launch [overrides]` in the host's folder, so that
the processes Lightning starts for further devices come through here as well.
"""

from __future__ import annotations

import io
import linecache
import os
import re
import sys
import traceback
import types
from importlib.util import decode_source
from pathlib import Path

from omegaconf.errors import OmegaConfBaseException

from hydra_plugins.mdlm_mcd_searchpath import IN_MEMORY

from ..settings import console, hydra_errors
from . import patches, stubs
from .specs import HostSpec, fit_algo, of_folder


def prepare(folder: Path) -> tuple[HostSpec, str, bool]:
    """Return (spec, source of main.py, whether it was patched just now in memory).

    Raises ConfigError for a folder that is no host, or that the patch does not fit.
    """
    spec = of_folder(folder)
    # Its configs stay as they are: `overrides` does what the patch does to them.
    patched = patches.changes(folder, spec, only="main.py").get("main.py")
    # As the interpreter does: a byte order mark, a line that names the encoding.
    source = decode_source(patched or (folder / "main.py").read_bytes())
    return spec, source, patched is not None


def overrides(folder: Path, given: list[str]) -> list[str]:
    """Fit the user's overrides to a host whose configs are as they are on disk."""
    given = fit_algo(given, folder)
    # Beside the others: argparse, which Hydra uses, wants all of them in one place.
    theirs = [i for i, arg in enumerate(given) if re.match(r"~|[^-].*=", arg)]
    at = min(theirs, default=len(given))
    return [*given[:at], *stubs.default_overrides(given), *given[at:]]


def explain(error: Exception) -> str | None:
    """Return the sentence that an error ends a run in; None where its traceback is due.

    What a host's own code asks of OmegaConf may be its bug.
    """
    theirs = isinstance(error, OmegaConfBaseException)
    return None if theirs else hydra_errors.ending(error, "mdlm-mcd")


def main() -> None:
    console.write_any_text()
    folder = Path.cwd().resolve()
    with console.refusals(explain):
        spec, source, in_memory = prepare(folder)
    supplied = stubs.install(folder)
    arguments = overrides(folder, sys.argv[1:])
    if os.environ.get("LOCAL_RANK", "0") == "0":
        how = "patched in memory" if in_memory else "patched on disk"
        print(f"mdlm-mcd run: {spec.name}'s main.py, {how}", *supplied, sep="\n  ", file=sys.stderr)
    path = str(folder / "main.py")
    sys.argv = [path, *arguments]
    if str(folder) not in sys.path:  # PYTHONSAFEPATH
        sys.path.insert(0, str(folder))
    os.environ[IN_MEMORY] = str(folder)
    remember(path, source)
    sys.excepthook = traceback.print_exception  # the built-in one reads the disk
    run(path, stubs.compiled(path, source))


def remember(path: str, source: str) -> None:
    """Have tracebacks show the lines that run, not those on disk."""
    lines = io.StringIO(source).readlines()  # unlike `splitlines`, as Python counts
    linecache.cache[path] = (len(source), None, lines, path)


def run(path: str, code: types.CodeType) -> None:
    """Run main.py as the module `__main__`, as the interpreter would."""
    host = types.ModuleType("__main__")
    host.__file__ = path
    # By which Lightning starts further processes.
    host.__spec__ = sys.modules["__main__"].__spec__
    sys.modules["__main__"] = host
    with console.hydra_raises(), console.refusals(explain):
        exec(code, vars(host))


if __name__ == "__main__":
    main()
