"""Draw the locked trajectory in motion: one SVG that needs no script and no second file.

CSS moves it, so it plays wherever an image is shown. On paper, and for readers who
asked their system for less motion, it stands still at the end. `animation.svg` is its
template.
"""

from __future__ import annotations

import unicodedata

from . import style
from .data import Trajectories

WIDTH, MARGIN = 1000, 28
LETTER, CELL, LINE, GAP = 9.1, 30, 36, 6  # px: a letter, a cell's height and spacing
SECONDS, MOVING = 14, 0.75  # of one loop; the share of it before it rests


def _percent(share: float) -> str:
    return f"{100 * MOVING * share:.3f}".rstrip("0").rstrip(".") + "%"


def _width(word: str) -> float:
    """Return the width of a word's cell; wide characters take two places."""
    letters = sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in word)
    return LETTER * letters + 16


def places(shown: Trajectories) -> list[tuple[float, int, float]]:
    """Return (x, line, width) of each word's cell, the same in every run."""
    out, x, line = [], float(MARGIN), 0
    for words in zip(*(run.words for run in shown.runs), strict=True):
        width = max(map(_width, words))
        if x + width > WIDTH - MARGIN:
            x, line = float(MARGIN), line + 1
        out.append((x, line, width))
        x += width + GAP
    return out


def trajectory(shown: Trajectories, title: str, alt: str) -> str:
    """Draw the animation as the text of an SVG file."""
    cells = places(shown)
    panel = 80 + (cells[-1][1] + 1) * LINE
    return style.render(
        "animation.svg",
        shown=shown,
        title=title,
        alt=alt,
        style=style,
        cells=cells,
        other={run.steps: shown.differs(run).tolist() for run in shown.runs},
        width=WIDTH,
        height=88 + len(shown.runs) * panel,
        margin=MARGIN,
        bar=WIDTH - 2 * MARGIN,
        panel=panel,
        cell=CELL,
        line=LINE,
        seconds=SECONDS,
        percent=_percent,
    )
