"""`mdlm-mcd run`: a host's own main.py, patched in memory, on any machine.

Runs as `python -m mdlm_mcd.hosts.launch [overrides]` in the host's folder, so that
the processes Lightning starts for further devices come through here as well.
"""

from __future__ import annotations

import io
import linecache
import os
import sys
import traceback
from importlib.util import decode_source
from pathlib import Path

from hydra_plugins.mdlm_mcd_searchpath import IN_MEMORY

from ..errors import ConfigError, MCDError
from ..settings import console
from . import patches, refusals, stubs
from .specs import HostSpec, of_folder


def prepare(folder: Path) -> tuple[HostSpec, str, bool]:
    """Return (spec, source of main.py, whether it was patched just now in memory).

    Raises ConfigError for a folder that is no host, or that the patch does not fit.
    """
    spec = of_folder(folder)
    now, files, hunks = patches.examine(folder, spec)
    if now == patches.PRISTINE:
        files = patches.changed(files, hunks)
    try:  # as the interpreter does: a byte order mark, a line that names the encoding
        source = decode_source(files["main.py"])
    except (SyntaxError, UnicodeError) as error:
        raise ConfigError(
            f"{folder / 'main.py'} cannot be read as Python ({error}): restore the "
            "file, for example with `git checkout`."
        ) from error
    return spec, source, now == patches.PRISTINE


def overrides(spec: HostSpec, given: list[str], in_memory: bool) -> list[str]:
    """Fit the user's overrides to a host whose configs are as they are on disk."""
    given = spec.fit_algo(given, patched=not in_memory)
    # Beside the others: argparse, which Hydra uses, wants all of them in one place.
    at = next((i for i, arg in enumerate(given) if _is_override(arg)), len(given))
    return [*given[:at], *stubs.default_overrides(given), *given[at:]]


def _is_override(arg: str) -> bool:
    return not arg.startswith("-") and ("=" in arg or arg.startswith("~"))


def main() -> None:
    console.write_any_text()
    folder = Path.cwd().resolve()
    try:
        console.check_arguments(sys.argv[1:])
        spec, source, in_memory = prepare(folder)
    except MCDError as error:
        if console.wants_traceback():
            raise
        raise SystemExit(console.sentence(f"mdlm-mcd: {error}")) from None
    supplied = stubs.install(folder)
    arguments = overrides(spec, sys.argv[1:], in_memory)
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


def run(path: str, code) -> None:
    """Run main.py in this very module, as the interpreter would.

    Hydra, pickle and Lightning's launcher all look for `__main__`. Our own errors,
    Hydra's about overrides, Lightning's and the Hub's end in their sentence and status
    1.
    """
    scope = sys.modules["__main__"].__dict__
    given, folder = sys.argv[1:], os.path.dirname(path)
    explain, ends = refusals.explain, console  # the names of this module go
    ends.hydra_raises()  # else Hydra prints a traceback of its own and ends the program
    for name in [n for n in scope if not n.startswith("__")]:
        del scope[name]  # main.py finds a module as fresh as it would be
    scope["__file__"] = path
    try:
        exec(code, scope)
    except Exception as error:
        known = explain(error, given, folder)
        if known is None or ends.wants_traceback():
            raise
        raise SystemExit(ends.sentence(known)) from None


if __name__ == "__main__":
    main()
