"""One self-contained page from results files: no script, no request, no second file."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from string import Template

from ...checkpoints import sanitize
from ...checkpoints.files import check_overwrite, write_text
from ...errors import ConfigError
from .. import results as _results
from ..results import Results
from . import compare, figures, paper, sections, tables
from .markup import Markup, el, join, text

__all__ = ["page", "write"]


def _section(key: str, title: str, *content) -> tuple[Markup, Markup]:
    """A link to a section, and the section."""
    link = el("li", el("a", title, href=f"#{key}"))
    named = f"{key}-h"
    return link, el("section", el("h2", title, id=named), *content, id=key, aria_labelledby=named)


def page(results: Results, *, reference: str | None = None, title: str = "") -> str:
    """The report as HTML.

    reference: label of the model that others are compared with; the teacher when it
    is not named. Raises ConfigError for a label that no row has.
    """
    try:
        base = compare.reference_of(results, reference)
    except KeyError as error:
        raise ConfigError(
            f"--reference {reference} is no model of these results: name one of "
            f"{', '.join(dict.fromkeys(p.model for p in results.points))}."
        ) from error
    some = sections.few(results)
    shown = tables.plain(results, base)
    rest = [line for line in tables.lines(results) if line not in shown]
    title = title or "Few-step samples, measured"
    mark = sections.forced(results)
    parts = [
        _section(
            "what",
            "What was measured",
            sections.headline(results, base),
            sections.notes(sections.caveats(results, base)),
        ),
        _section(
            "figures",
            "By sampling steps",
            mark,
            tables.main_table(results, shown),
            _more("Other temperatures", rest and tables.main_table(results, rest, "quality-rest")),
        ),
        _section("paper", "The paper’s Table 1", mark, paper.section(results, base)),
        _section("steps", "Against steps", mark, figures.over_steps(results, base)),
        _section("frontier", "Perplexity against entropy", mark, figures.frontier(results, base)),
        *_comparisons(results, base, shown, rest),
        *_diversity(results, shown, some),
        _section("samples", "Samples side by side", sections.samples(results, base)),
        _section("provenance", "Provenance", sections.provenance(results)),
    ]
    folder = files(__package__)
    return Template((folder / "page.html").read_text("utf-8")).substitute(
        title=text(title),
        style=(folder / "style.css").read_text("utf-8"),
        contents=join(link for link, _ in parts),
        body=join((section for _, section in parts), "\n"),
    )


def _more(title: str, *content) -> Markup | None:
    """Content to be opened; None without any."""
    return el("details", el("summary", title), *content) if any(content) else None


def _comparisons(results: Results, base: str, shown: tables.Lines, rest: tables.Lines):
    shown = [(n, t) for n, t in shown if n != base]
    if not shown:
        return
    more = rest and _more(
        "Other temperatures",
        tables.equal_entropy(results, base, rest, "equal-rest"),
        tables.speed_up(results, base, rest, "speed-rest"),
    )
    yield _section(
        "compared",
        "At equal quality",
        sections.forced(results),
        tables.equal_entropy(results, base, shown),
        tables.speed_up(results, base, shown),
        more or None,
    )


def _diversity(results: Results, shown: tables.Lines, some: list[int]):
    first = tables.diversity(results, shown, some)
    if first is None:
        return
    every = tables.lines(results)
    more = (every, results.steps) != (shown, some) and _more(
        "All steps and temperatures",
        tables.diversity(results, every, results.steps, "diversity-all"),
    )
    mark = sections.forced(results)
    yield _section("diversity", "Diversity", mark, first, more or None)


def _foreign(path: Path) -> str:
    """Return why a file is no page of ours; older ones have only the foot's mark."""
    held = sanitize.read_bytes(path)
    marks = (b'content="mdlm-mcd report"', b"Made by <code>mdlm-mcd report</code>")
    ours = held.startswith(b"<!doctype html>") and any(mark in held for mark in marks)
    return "" if ours else "it is no page of `mdlm-mcd report`"


def write(
    paths: Iterable[Path | str],
    out: Path | str,
    *,
    force: bool = False,
    reference: str | None = None,
    title: str = "",
) -> Results:
    """Read results files, write the page to `out`; answers what was read.

    Raises ConfigError for files that cannot be read or compared (`results.read`), and
    for an `out` that cannot be written or is no page of ours. An interruption leaves
    the old page.
    """
    paths, out = [Path(p) for p in paths], Path(out)
    check_overwrite(f"--out {out}", out, _foreign)
    found = _results.read(paths, force=force)
    made = page(found, reference=reference, title=title)
    try:
        write_text(out, made)
    except OSError as error:
        raise ConfigError(
            f"--out {out} cannot be written ({error.strerror}): name a file in a "
            "folder that exists."
        ) from error
    return found
