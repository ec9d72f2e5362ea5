"""The locked trajectory in motion: one SVG that needs no script and no second file.

CSS moves it, so it plays wherever an image is shown. On paper, and for readers who
asked their system for less motion, it stands still at the end.
"""

from __future__ import annotations

import unicodedata

from .data import Trajectories, Trajectory
from .markup import Markup, el, join
from .style import BLUE, HIDDEN, INK, MARK, PAPER, RULE, RUST, SHOWN, SOFT

WIDTH, MARGIN = 1000, 28
LETTER, CELL, LINE, GAP = 9.1, 30, 36, 6  # px: a letter, a cell's height and spacing
SECONDS, MOVING = 14, 0.75  # of one loop; the share of it before it rests

STYLE = f"""
text {{ font: 15px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  fill: {INK}; }}
.title {{ font-size: 19px; font-weight: 700; }}
.steps {{ font-size: 17px; font-weight: 700; }}
.note {{ fill: {SOFT}; font-size: 13px; }}
.word {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  text-anchor: middle; }}
.other {{ font-weight: 700; fill: {RUST}; text-decoration: underline; }}
.cover {{ animation: {SECONDS}s infinite; opacity: 0; }}
.bar {{ animation: {SECONDS}s infinite; fill: {BLUE}; }}
@media (prefers-reduced-motion: reduce) {{ .cover, .bar {{ animation: none; }} }}
@media print {{ .cover, .bar {{ animation: none; }} }}
"""


def _percent(share: float) -> str:
    return f"{100 * MOVING * share:.3f}".rstrip("0").rstrip(".") + "%"


def _fades(run: Trajectory) -> str:
    """The cover of a word that opens after step n is gone once n steps are done."""
    rules = [
        f"@keyframes c{run.steps}-{n} {{ 0%, {_percent(n / run.steps)} "
        f"{{ opacity: 1; animation-timing-function: step-end; }} "
        f"{_percent(n / run.steps + 0.004)}, 100% {{ opacity: 0; }} }}"
        for n in sorted(set(run.opened.tolist()))
    ]
    rules.append(
        f"@keyframes b{run.steps} {{ 0% {{ transform: scaleX(0); "
        f"animation-timing-function: steps({run.steps}, end); }} "
        f"{_percent(1)}, 100% {{ transform: scaleX(1); }} }}"
    )
    return "\n".join(rules)


def _width(word: str) -> float:
    """Of a word's cell; wide characters take two places."""
    places = sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in word)
    return LETTER * places + 16


def places(shown: Trajectories) -> list[tuple[float, int, float]]:
    """(x, line, width) of each word's cell, the same in every run."""
    out, x, line = [], float(MARGIN), 0
    for words in zip(*(run.words for run in shown.runs), strict=True):
        width = max(map(_width, words))
        if x + width > WIDTH - MARGIN:
            x, line = float(MARGIN), line + 1
        out.append((x, line, width))
        x += width + GAP
    return out


def _panel(shown: Trajectories, run: Trajectory, cells, top: float) -> Markup:
    other = shown.differs(run).tolist()
    parts = [
        el("text", f"{run.steps} steps", x=MARGIN, y=top + 16, class_="steps"),
        el("text", f"{run.evaluations} network calls", x=MARGIN + 105, y=top + 16, class_="note"),
    ]
    for i, (x, line, width) in enumerate(cells):
        y = top + 30 + line * LINE
        box = dict(x=f"{x:.1f}", y=y, width=f"{width:.1f}", height=CELL, rx=3)
        parts += [
            el("rect", **box, fill=SHOWN),
            el(
                "text",
                run.words[i],
                x=f"{x + width / 2:.1f}",
                y=y + 20,
                class_="word other" if other[i] else "word",
            ),
            el(
                "rect",
                **box,
                class_="cover",
                fill="url(#hidden)",
                style=f"animation-name: c{run.steps}-{run.opened[i]}",
            ),
        ]
    y = top + 30 + (cells[-1][1] + 1) * LINE + 8
    full = WIDTH - 2 * MARGIN
    parts += [
        el("rect", x=MARGIN, y=y, width=full, height=8, fill=RULE),
        el(
            "g",
            el("rect", width=full, height=8, class_="bar", style=f"animation-name: b{run.steps}"),
            transform=f"translate({MARGIN} {y})",
        ),
        *(
            el(
                "circle",
                cx=f"{MARGIN + full * u:.1f}",
                cy=y + 4,
                r=5,
                fill=PAPER,
                stroke=INK,
                stroke_width=1.4,
            )
            for u in shown.u.tolist()
        ),
    ]
    return join(parts)


def trajectory(shown: Trajectories, title: str, alt: str) -> str:
    """The animation as the text of an SVG file."""
    cells = places(shown)
    tall = 30 + (cells[-1][1] + 1) * LINE + 50
    body = [_panel(shown, run, cells, 62 + i * tall) for i, run in enumerate(shown.runs)]
    height = 62 + len(shown.runs) * tall + 26
    hatch = el(
        "pattern",
        el("rect", width=7, height=7, fill=HIDDEN),
        el("path", d="M0 0L7 7M7 0L0 7", stroke=INK, stroke_width=0.7),
        id="hidden",
        width=7,
        height=7,
        patternUnits="userSpaceOnUse",
    )
    style = Markup(STYLE + "\n".join(map(_fades, shown.runs)))
    most = shown.runs[-1].steps
    return el(
        "svg",
        el("title", title),
        el("desc", alt),
        el("metadata", MARK),
        el("style", style),
        el("defs", hatch),
        el("rect", width=WIDTH, height=height, fill=PAPER),
        el("text", title, x=MARGIN, y=38, class_="title"),
        *body,
        el(
            "text",
            "Circles: u of each word. A word opens when the bar, the share of "
            f"the steps done, has passed its u. Underlined: not the word of {most} "
            "steps.",
            x=MARGIN,
            y=height - 18,
            class_="note",
        ),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {height}",
        width=WIDTH,
        height=height,
        role="img",
    )
