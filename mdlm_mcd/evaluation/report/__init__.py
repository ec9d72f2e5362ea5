"""One self-contained page from results files: no script, no request, no second file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from string import Template

from ...errors import ConfigError
from .. import results as _results
from ..results import Results
from . import compare, figures, sections, tables
from .markup import Markup, el, join, text

__all__ = ["page", "write"]


def published() -> dict:
    """Figures of the paper's Table 1, and how far they are to be trusted."""
    return json.loads((files(__package__) / "published.json").read_text("utf-8"))


def comparable(results: Results, paper: dict) -> bool:
    """Whether the paper's figures were measured as these were."""
    return all(
        p.length == paper["length"]
        and str(p.evaluator or "").split("/")[-1] == paper["evaluator"]
        for p in results.points
    )


def _section(key: str, title: str, *content) -> tuple[Markup, Markup]:
    """A link to a section, and the section."""
    link = el("li", el("a", title, href=f"#{key}"))
    named = f"{key}-h"
    return link, el(
        "section", el("h2", title, id=named), *content, id=key, aria_labelledby=named
    )


def _paper(results: Results, reference: str) -> Markup:
    paper = published()
    beside = comparable(results, paper)
    trust = paper["precision"]
    why = (
        f"Suspected precision of the published figures: {trust['suspected']}, although "
        f"the paper says {trust['stated']}: {trust['why']}. Those of Duo are from "
        "another teacher, of unknown precision."
    )
    if beside:
        return join([
            tables.table_one(results, reference, paper, True),
            el("p", why, class_="grey"),
        ])  # fmt: skip
    return join([
        tables.table_one(results, reference, paper, False),
        el("details",
           el("summary", "The paper’s own figures: another model, text and evaluator"),
           el("p", "They stand apart, since rows at hand with another length or "
              f"evaluator do not compare with them. {why}", class_="grey"),
           tables.published_table(paper)),
    ])  # fmt: skip


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
    rest = [n for n in results.steps if n not in some]
    title = title or "Few-step samples, measured"
    parts = [
        _section("what", "What was measured", sections.headline(results, base),
                 sections.notes(sections.caveats(results, base))),
        _section("figures", "By sampling steps", tables.main_table(results)),
        _section("paper", "The paper’s Table 1", _paper(results, base)),
        _section("steps", "Against steps", figures.over_steps(results, base)),
        _section("frontier", "Perplexity against entropy",
                 figures.frontier(results, base)),
        *_comparisons(results, base),
        *_diversity(results, some, rest),
        _section("samples", "Samples side by side", sections.samples(results, base)),
        _section("provenance", "Provenance", sections.provenance(results)),
    ]  # fmt: skip
    folder = files(__package__)
    return Template((folder / "page.html").read_text("utf-8")).substitute(
        title=text(title),
        style=(folder / "style.css").read_text("utf-8"),
        contents=join(link for link, _ in parts),
        body=join((section for _, section in parts), "\n"),
    )


def _comparisons(results: Results, base: str):
    if len(results.names) < 2:
        return
    yield _section(
        "compared", "At equal quality", tables.equal_entropy(results, base),
        tables.speed_up(results, base),
    )  # fmt: skip


def _diversity(results: Results, some: list[int], rest: list[int]):
    shown = tables.diversity("diversity-few", results, some)
    if shown is None:
        return
    more = rest and el(
        "details",
        el("summary", "At other numbers of steps"),
        tables.diversity("diversity-rest", results, rest),
    )
    yield _section("diversity", "Diversity", shown, more or None)


def write(
    paths: Iterable[Path | str],
    out: Path | str,
    *,
    force: bool = False,
    reference: str | None = None,
    title: str = "",
) -> Results:
    """Read results files, write the page to `out`; answers what was read.

    Raises ConfigError for files that cannot be read or compared (`results.read`) and
    for an `out` that cannot be written. An interruption leaves the old page.
    """
    paths, out = [Path(p) for p in paths], Path(out)
    if out.resolve() in [p.resolve() for p in paths]:
        raise ConfigError(f"--out {out} is one of the results: name another file.")
    found = _results.read(paths, force=force)
    made = page(found, reference=reference, title=title)
    part = out.with_name(out.name + ".part")
    try:
        part.write_text(made, "utf-8")
        os.replace(part, out)
    except OSError as error:
        raise ConfigError(
            f"--out {out} cannot be written ({error.strerror}): name a file in a "
            "folder that exists."
        ) from error
    return found
