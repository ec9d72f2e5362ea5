"""Charts as inline SVG: no script, colours from the page's style sheet.

A panel is its own small SVG, so that panels stand side by side on a desk and one
above the other on a phone, where their text stays legible.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..results import Estimate
from .markup import Markup, el, join

WIDTH, HEIGHT = 440, 330
LEFT, RIGHT, TOP, BOTTOM = 46, 124, 12, 40
LETTER, LINE = 6.1, 14  # width of a letter and height of a line at 12 px


@dataclass(frozen=True)
class Dot:
    """A point of a curve; a note beside it, such as its temperature."""

    x: Estimate
    y: Estimate
    note: str = ""


@dataclass(frozen=True)
class Curve:
    name: str
    style: str  # a colour class of style.css
    marker: int  # which of MARKERS
    dots: Sequence[Dot]
    dashed: bool = False
    noted: bool = False  # write its points' notes beside them


@dataclass(frozen=True)
class Axis:
    title: str
    low: float
    high: float
    log: bool = False
    ticks: Sequence[float] | None = None

    def at(self, x: float) -> float:
        """0 at the low end, 1 at the high one."""
        f = math.log if self.log else float
        return (f(x) - f(self.low)) / (f(self.high) - f(self.low))


def axis(title: str, estimates, *, log=False, ticks=None) -> Axis:
    """An axis that holds all estimates with their intervals, and some air."""
    values = [v for e in estimates for v in (e.value, e.low, e.high) if v is not None]
    values = [v for v in values if v > 0 or not log]
    # Beyond this the ends would be 0 or infinite.
    least = 1e-100 if log else -1e100
    low, high = (min(max(f(values), least), 1e100) for f in (min, max))
    if log:
        air = max((high / low) ** 0.06, 1.05)
        return Axis(title, low / air, high * air, True, ticks)
    # Never so short that its marks would differ in the fifth digit only, or not at all.
    air = max((high - low) * 0.08, 0.002 * (abs(high) or 1), 1e-9)
    return Axis(title, low - air, high + air, False, ticks)


def ticks(a: Axis) -> list[float]:
    """Round numbers on the axis, four to eight of them."""
    if a.ticks is not None:
        return [t for t in a.ticks if a.low <= t <= a.high]
    if a.log:
        decades = range(math.floor(math.log10(a.low)), math.ceil(math.log10(a.high)))
        for kinds in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), range(1, 10)):
            found = [k * 10.0**d for d in decades for k in kinds]
            found = [t for t in found if a.low <= t <= a.high]
            if len(found) >= 4:
                return found[:: math.ceil(len(found) / 8)]
        # Less than an octave: as on a linear axis.
    rough = (a.high - a.low) / 6.5
    step = 10.0 ** math.floor(math.log10(rough))
    step = next(step * k for k in (1, 2, 5, 10) if step * k >= rough)
    first = math.ceil(a.low / step)
    last = math.floor(a.high / step + 1e-9)
    return [float(f"{k * step:.10g}") for k in range(first, last + 1)]


def marker(kind: int, x: float, y: float, style: str, r: float = 4.2) -> Markup:
    """One of six shapes that stay apart without colour, then the same ones hollow."""
    shape, hollow = kind % 6, (kind // 6) % 2
    class_ = f"mark {style}" + (" hollow" if hollow else "")
    if shape == 0:
        return el("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=r, class_=class_)
    corners = {
        1: [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        2: [(0, -1.2), (1.1, 0.85), (-1.1, 0.85)],
        3: [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
        4: [(0, 1.2), (1.1, -0.85), (-1.1, -0.85)],
        5: [
            (-0.4, -1.2),
            (0.4, -1.2),
            (0.4, -0.4),
            (1.2, -0.4),
            (1.2, 0.4),
            (0.4, 0.4),
            (0.4, 1.2),
            (-0.4, 1.2),
            (-0.4, 0.4),
            (-1.2, 0.4),
            (-1.2, -0.4),
            (-0.4, -0.4),
        ],
    }[shape]
    points = " ".join(f"{x + r * dx:.1f},{y + r * dy:.1f}" for dx, dy in corners)
    return el("polygon", points=points, class_=class_)


def swatch(curve: Curve) -> Markup:
    """A curve's line and marker, for a legend in the page."""
    line = el("line", x1=1, x2=31, y1=7, y2=7, class_=_line_class(curve))
    mark = marker(curve.marker, 16, 7, curve.style)
    return el(
        "svg",
        line,
        mark,
        viewBox="0 0 32 14",
        class_="swatch",
        aria_hidden="true",
        focusable="false",
    )


def _line_class(curve: Curve) -> str:
    return f"line {curve.style}" + (" dashed" if curve.dashed else "")


def number(x: float) -> str:
    """A figure as short as it can be read: 4.297, 57.4, 499, 12,300."""
    size = abs(x)
    if size >= 1000:
        return f"{x:,.0f}"
    return f"{x:.0f}" if size >= 100 else f"{x:.1f}" if size >= 10 else f"{x:.3g}"


def labels(a: Axis) -> list[tuple[float, str]]:
    """The axis' ticks, all with as many decimals as they need to differ."""
    found = ticks(a)
    for places in range(9):
        shown = [f"{t:,.{places}f}" for t in found]
        if all(
            abs(float(s.replace(",", "")) - t) <= 1e-9 * abs(t) + 1e-12
            for s, t in zip(shown, found, strict=True)
        ):
            return list(zip(found, shown, strict=True))
    return [(t, f"{t:.3g}") for t in found]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones, in their order, at least `gap` apart.

    Where they do not all fit between low and high the gap shrinks.
    """
    n = len(wanted)
    if n > 1:
        gap = min(gap, (high - low) / (n - 1))
    order = sorted(range(n), key=lambda i: wanted[i])
    # Pools of neighbours that touch, each at the mean of what its members want.
    pools: list[list] = []
    for i in order:
        pools.append([wanted[i], [i]])
        while len(pools) > 1:
            (a, left), (b, right) = pools[-2:]
            if b - a >= gap * (len(left) + len(right)) / 2:
                break
            merged = left + right
            mean = (a * len(left) + b * len(right)) / len(merged)
            pools[-2:] = [[mean, merged]]
    out = [0.0] * n
    for mean, members in pools:
        for k, i in enumerate(members):
            out[i] = mean + gap * (k - (len(members) - 1) / 2)
    # Pools at an end may stick out: push them in, one after the other.
    floor = low
    for i in order:
        out[i] = floor = max(out[i], floor)
        floor += gap
    ceiling = high
    for i in reversed(order):
        out[i] = ceiling = min(out[i], ceiling)
        ceiling -= gap
    return out


def _short(name: str) -> str:
    most = int((RIGHT - 16) / LETTER)
    if len(name) <= most:
        return name
    # Names of one family differ at their end: a round, a temperature.
    return name[: most - 10].rstrip() + "…" + name[-9:].lstrip()


def panel(
    key: str, title: str, x: Axis, y: Axis, curves: Sequence[Curve], *, reference=None, star=None
) -> Markup:
    """One panel: axes, curves with interval bars, a direct label at each curve.

    key: an id that no other panel of the page has. reference: (y, label) of a
    horizontal line; star: (x, y, label) of one more point.
    """
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def px(v: float) -> float:
        return LEFT + x.at(v) * (right - LEFT)

    def py(v: float) -> float:
        return bottom - y.at(v) * (bottom - TOP)

    parts = [_grid(x, y, px, py)]
    tags: list[tuple[float, float, str, str]] = []  # where its curve ends, name, style
    if reference:
        level, label = reference
        parts.append(
            el("line", x1=LEFT, x2=right, y1=_n(py(level)), y2=_n(py(level)), class_="reference")
        )
        tags.append((right, py(level), label, "plain"))
    for curve in curves:
        dots = [d for d in curve.dots if d.y.value > 0 or not y.log]
        if not dots:
            continue
        places = [(px(d.x.value), py(d.y.value)) for d in dots]
        path = "M" + " L".join(f"{a:.1f} {b:.1f}" for a, b in places)
        parts.append(el("path", d=path, class_=_line_class(curve)))
        for dot, (a, b) in zip(dots, places, strict=True):
            parts.append(_bars(dot, px, py, a, b, curve.style))
            parts.append(_dot(curve, dot, x, y, a, b))
        a, b = max(places)
        tags.append((a, b, curve.name, curve.style))
    if star:
        parts.append(_star(px(star[0]), py(star[1]), star[2], right))
    parts.append(_tags(tags, right, bottom))
    return el(
        "svg",
        el("title", title, id=f"{key}-t"),
        el("desc", _told(x, y, curves, reference), id=f"{key}-d"),
        *parts,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_labelledby=f"{key}-t {key}-d",
        class_="chart",
    )


def _n(v: float) -> str:
    return f"{v:.1f}"


def _grid(x: Axis, y: Axis, px, py) -> Markup:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for t, shown in labels(x):
        a = _n(px(t))
        parts.append(el("line", x1=a, x2=a, y1=TOP, y2=bottom, class_="grid"))
        parts.append(el("text", shown, x=a, y=bottom + 16, text_anchor="middle", class_="tick"))
    for t, shown in labels(y):
        b = _n(py(t))
        parts.append(el("line", x1=LEFT, x2=right, y1=b, y2=b, class_="grid"))
        parts.append(
            el("text", shown, x=LEFT - 7, y=b, dy="0.35em", text_anchor="end", class_="tick")
        )
    middle = _n((LEFT + right) / 2)
    parts.append(el("text", x.title, x=middle, y=HEIGHT - 6, text_anchor="middle", class_="axis"))
    return join(parts)


def _bars(dot: Dot, px, py, a: float, b: float, style: str) -> Markup:
    parts = []
    if dot.y.low is not None and dot.y.low > 0:
        top, end = py(dot.y.high), py(dot.y.low)
        d = f"M{a:.1f} {top:.1f}V{end:.1f}M{a - 3:.1f} {top:.1f}h6"
        parts.append(el("path", d=f"{d}M{a - 3:.1f} {end:.1f}h6", class_=f"bar {style}"))
    if dot.x.low is not None:
        d = f"M{px(dot.x.low):.1f} {b:.1f}H{px(dot.x.high):.1f}"
        parts.append(el("path", d=d, class_=f"bar {style}"))
    return join(parts)


def _dot(curve: Curve, dot: Dot, x: Axis, y: Axis, a: float, b: float) -> Markup:
    says = f"{curve.name}: {x.title} {number(dot.x.value)}, {y.title} {number(dot.y.value)}" + (
        f", {dot.note}" if dot.note else ""
    )
    # A title inside a mark is what a pointer sees when it rests there.
    mark = el("g", el("title", says), marker(curve.marker, a, b, curve.style))
    if not (dot.note and curve.noted):
        return mark
    note = el(
        "text",
        dot.note.removeprefix("T = "),
        x=_n(a - 6),
        y=_n(b - 6),
        text_anchor="end",
        class_="note",
    )
    return join([mark, note])


def _star(a: float, b: float, label: str, right: float) -> Markup:
    arms = "M-6 0H6M0-6V6M-4.2-4.2L4.2 4.2M-4.2 4.2L4.2-4.2"
    left = a > (LEFT + right) / 2
    return join(
        [
            el("path", d=arms, transform=f"translate({a:.1f} {b:.1f})", class_="star"),
            el(
                "text",
                label,
                x=_n(a - 10 if left else a + 10),
                y=_n(b),
                dy="0.35em",
                text_anchor="end" if left else "start",
                class_="label plain",
            ),
        ]
    )


def _tags(tags, right: float, bottom: float) -> Markup:
    """Names at the right, each at the height of its curve's end where there is room."""
    places = spread([b for _, b, _, _ in tags], LINE, TOP + 4, bottom - 2)
    parts = []
    for (a, b, name, style), y in zip(tags, places, strict=True):
        lead = f"M{a + 5:.1f} {b:.1f}L{right + 3:.1f} {b:.1f}L{right + 11} {y:.1f}"
        parts.append(el("path", d=lead, class_=f"lead {style}"))
        parts.append(
            el(
                "text",
                el("title", name),
                _short(name),
                x=right + 14,
                y=_n(y),
                dy="0.35em",
                class_=f"label {style}",
            )
        )
    return join(parts)


def _told(x: Axis, y: Axis, curves: Sequence[Curve], reference) -> str:
    """The panel in words, for whoever does not see it."""
    said = [f"{y.title} over {x.title}."]
    if reference:
        said.append(f"{reference[1]}: {number(reference[0])}.")
    for curve in curves:
        dots = ", ".join(
            f"{number(d.y.value)} at {number(d.x.value)}" + (f" ({d.note})" if d.note else "")
            for d in curve.dots
        )
        said.append(f"{curve.name}: {dots}.")
    return " ".join(said)
