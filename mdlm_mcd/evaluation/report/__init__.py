"""Write one self-contained page from results files: no script, no request, no second file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import jinja2

from ...checkpoints import sanitize
from ...checkpoints.files import check_overwrite, write_text
from ...errors import border
from .. import frontier
from .. import results as _results
from ..results import Results
from . import charts, view

__all__ = ["page", "write"]


def page(results: Results, *, reference: str | None = None, title: str = "") -> str:
    """Return the report as HTML; reference: as of `frontier.reference_of`."""
    base = frontier.reference_of(results, reference)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__name__, ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    # What the templates call.
    environment.globals |= vars(view) | dict(charts=charts, compare=frontier, dumps=json.dumps)
    title = title or "Few-step samples, measured"
    made = environment.get_template("page.html").render(results=results, base=base, title=title)
    return view.clean(made).lstrip()


def _foreign(path: Path) -> str:
    """Return why a file is no page of ours."""
    found = sanitize.read_bytes(path)
    ours = found.startswith(b"<!doctype html>") and b'content="mdlm-mcd report"' in found
    return "" if ours else "it is no page of `mdlm-mcd report`"


def write(
    paths: Iterable[Path | str],
    out: Path | str,
    *,
    force: bool = False,
    reference: str | None = None,
    title: str = "",
) -> Results:
    """Read results files, write the page to `out`; return what was read.

    Raises ConfigError for files that cannot be read or compared, and for an `out` that cannot
    be written or is no page of ours. An interruption leaves the old page.
    """
    paths, out = [Path(p) for p in paths], Path(out)
    check_overwrite(f"--out {out}", out, _foreign)
    found = _results.read(paths, force=force)
    made = page(found, reference=reference, title=title)
    with border(f"--out {out} cannot be written", "name a file in a folder that exists"):
        write_text(out, made)
    return found
