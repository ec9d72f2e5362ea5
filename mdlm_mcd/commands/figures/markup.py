"""HTML and SVG from nested calls; whatever is not `Markup` is escaped."""

from __future__ import annotations

import html
import re


class Markup(str):
    """Text that is markup already."""


# What no HTML text may hold (C0 and C1 but tab and newline, lone surrogates,
# non-characters), and marks that would turn the direction of what follows.
_UNFIT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\u202a-\u202e\u2066-\u2069]"
)


def text(value) -> Markup:
    """Any value as text: escaped, and free of what would break a page."""
    if isinstance(value, Markup):
        return value
    plain = str(value).replace("\r\n", "\n").replace("\r", "\n")
    return Markup(html.escape(_UNFIT.sub("\ufffd", plain)))


def join(parts, between: str = "") -> Markup:
    """One piece of markup from many; None leaves nothing."""
    return Markup(between.join(text(p) for p in parts if p is not None))


def el(tag: str, *children, **attributes) -> Markup:
    """`<tag attributes>children</tag>`.

    `class_` is class, `aria_label` is aria-label; None leaves an attribute out and
    True leaves it without a value.
    """
    said = ""
    for key, value in attributes.items():
        name = key.rstrip("_").replace("_", "-")
        if value is None or value is False:
            continue
        said += f" {name}" if value is True else f' {name}="{text(value)}"'
    return Markup(f"<{tag}{said}>{join(children)}</{tag}>")
