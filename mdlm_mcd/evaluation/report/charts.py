"""Draw the report's figures by matplotlib, as SVG with the colours of style.css."""

from __future__ import annotations

import contextlib
import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from ..intervals import Estimate
from ..results import Results
from .view import clean, heading, plain

try:
    import matplotlib
    from matplotlib import ticker
    from matplotlib.figure import Figure
except ImportError:  # of the extra `demo`; the report stands without figures
    matplotlib = None  # type: ignore[assignment]

WIDTH, HEIGHT = 440, 300  # px, which are points at 72 dpi; below it a line for two names
LEFT, RIGHT, TOP, BOTTOM, LINE = 46, 430, 290, 44, 18
MARKERS = "os^DvP"
COLOURS = "ink soft grid paper c0 c1 c2 c3 c4 c5 c6 c7 r0 r1 r2 r3 r4".split()
METRICS = {
    "n_step_nelbo": "N-step NELBO (nats a token)",
    "perplexity": "generative perplexity",
    "entropy": "entropy of a sample (nats)",
}


class Dot(NamedTuple):
    """A point of a curve; temperature: where that is what differs."""

    x: Estimate
    y: Estimate
    temperature: float | None = None

    @property
    def place(self) -> tuple[float, float]:
        return self.x.value, self.y.value


class Curve(NamedTuple):
    """colour: of COLOURS; marker: of MARKERS, then hollow; noted: write the temperatures."""

    name: str
    colour: str
    marker: int
    dots: list[Dot]
    dashed: bool = False
    noted: bool = False


class Panel(NamedTuple):
    """key: its id; text: (x, y) of held-out text, x None for a level; svg: as drawn."""

    key: str
    title: str
    x: str
    y: str
    curves: list[Curve]
    text: tuple[float | None, float] | None = None
    svg: str = ""
    height: int = HEIGHT


@contextlib.contextmanager
def _defaults() -> Iterator[None]:
    """Draw as matplotlib does by itself, and without its warnings of letters it lacks."""
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("ignore")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "report"})
        yield


def looks(results: Results, reference: str) -> dict[str, tuple[str, int]]:
    """Return colour and marker of each curve.

    Rounds of one distillation are a ramp from light to dark; otherwise every curve
    has a colour of its own. The reference is slate, as in the paper.
    """
    rounds = {n: results.of(n)[0].round for n in results.names if n != reference}
    known = sorted(r for r in rounds.values() if r is not None)
    ramp = len(known) > 1 and len(set(known)) == len(known)
    out, free = {reference: ("c0", 1)}, 0
    for k, (name, round_) in enumerate(rounds.items()):
        if ramp and round_ is not None:
            colour = f"r{round(known.index(round_) * 4 / (len(known) - 1))}"
        else:
            colour, free = f"c{1 + free % 7}", free + 1
        out[name] = colour, (0, 2, 3, 4, 5, 1)[k % 6] + 6 * (k // 6 % 2)
    return out


@_defaults()
def over_steps(results: Results, reference: str) -> list[Panel]:
    """Draw N-step NELBO, perplexity (the paper's Figure 3) and entropy over steps."""
    look, panels = looks(results, reference), []
    rows = sorted(plain(results, reference), key=lambda line: line[0] != reference)
    for metric, title in METRICS.items():
        curves = []
        for name, t in rows:
            points = [(p.steps, p.metric(metric)) for p in results.of(name, t)]
            dots = [Dot(Estimate(n), m) for n, m in points if m]
            dashed = name == reference and t != 1
            curves += [Curve(heading(name, t), *look[name], dots, dashed)] if dots else []
        own = results.of_text(metric)
        text = (None, own) if own is not None and (own > 0 or metric == "entropy") else None
        panel = Panel(f"steps-{metric}", title, "sampling steps", title, curves, text)
        panels += [_drawn(panel, curves, results.steps)] if curves else []
    return panels


@_defaults()
def frontier(results: Results, reference: str) -> list[Panel]:
    """Draw perplexity against entropy: a panel a number of steps, a point a temperature."""
    panels: list[Panel] = []
    names = ("entropy of a sample (nats)", "perplexity")
    for n in results.steps:
        curves = []
        for name, look in looks(results, reference).items():
            dots = [
                Dot(x, y, p.temperature)
                for p in results.of(name)
                if p.steps == n and (x := p.metric("entropy")) and (y := p.metric("perplexity"))
            ]
            curves += [Curve(name, *look, dots, noted=name == reference)] if dots else []
        panels += [Panel(f"frontier-{n}", f"{n} steps", *names, curves)] if curves else []
    every = [curve for panel in panels for curve in panel.curves]
    h, q = results.of_text("entropy"), results.of_text("perplexity")
    own = (h, q) if h and q and _near(h, q, [d for curve in every for d in curve.dots]) else None
    return [_drawn(panel._replace(text=own), every) for panel in panels]


def _near(x: float, y: float, dots: list[Dot]) -> bool:
    """Return whether a mark there would not squeeze the dots into a corner."""
    if min(x, y) <= 0:
        return False
    places = [(d.x.value, math.log(d.y.value)) for d in dots] or [(0.0, 0.0)]
    sides = zip((x, math.log(y)), zip(*places, strict=True), strict=True)
    return all(abs(at - (min(v) + max(v)) / 2) <= max(v) - min(v) for at, v in sides)


def _colour(name: str) -> str:
    """Return a stand-in for a colour of style.css, which `_svg` replaces."""
    return f"#fe00{COLOURS.index(name):02x}"


def _svg(figure: Any, key: str) -> Markup:
    """Return what stands inside of the SVG element; ids begin with `key`."""
    out = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    for artist in figure.findobj():
        artist.set_clip_on(False)
    figure.savefig(out, format="svg", metadata=nothing, transparent=True)
    inside = out.getvalue().partition("</defs>")[2].rpartition("</svg>")[0]
    inside = re.sub(r' id="(?!m[0-9a-f]{10}")[^"]*"', "", inside)  # of no use but for markers
    inside = re.sub(r'( id="|xlink:href="#)', rf"\g<1>{key}-", inside)
    inside = re.sub(r"#fe00(\w\w)", lambda m: f"var(--{COLOURS[int(m[1], 16)]})", inside)
    return Markup(re.sub(r"\n\s*", " ", inside))


def _mark(curve: Curve) -> dict[str, Any]:
    """Return the keywords of a curve's line."""
    own, paper = _colour(curve.colour), _colour("paper")
    face, edge = (paper, own) if curve.marker // 6 % 2 else (own, paper)
    style = "--" if curve.dashed else "-"
    marker = dict(marker=MARKERS[curve.marker % 6], markersize=8, mfc=face, mec=edge)
    return dict(color=own, linewidth=2, linestyle=style, **marker)


def _drawn(panel: Panel, scale: Sequence[Curve], steps: Sequence[int] = ()) -> Panel:
    """Draw a panel whose axes hold all curves of `scale` and their 95% intervals.

    steps: ticks of a logarithmic x axis.
    """
    lines, log = {}, "perplexity" in panel.y
    # From top to bottom, as the curves end on the right.
    curves = sorted(panel.curves, key=lambda curve: -max(dot.place for dot in curve.dots)[1])
    named = LINE * -(-(len(curves) + bool(panel.text)) // 2)
    height = HEIGHT + named
    figure = Figure((WIDTH / 72, height / 72), dpi=72)
    box = (LEFT / WIDTH, (BOTTOM + named) / height, (RIGHT - LEFT) / WIDTH, (TOP - BOTTOM) / height)
    ax = figure.add_axes(box, axisbelow=True)
    ax.set(xscale="log" if steps else "linear", yscale="log" if log else "linear")
    ax.margins(0.07)
    if panel.text:
        x, y = panel.text
        if x is None:
            line = ax.axhline(y, color=_colour("ink"), ls=":", lw=1)
        else:
            (line,) = ax.plot(x, y, "*", markersize=11, color=_colour("ink"))
        lines["held-out text"] = line
    for curve in curves:
        bar: Any = dict(colors=_colour(curve.colour), linewidth=1.2, alpha=0.75)
        xs, ys = zip(*(dot.place for dot in curve.dots), strict=True)
        ax.vlines(xs, *zip(*(_bar(d.y, log) for d in curve.dots), strict=True), **bar)
        ax.hlines(ys, *zip(*(_bar(d.x) for d in curve.dots), strict=True), **bar)
        (lines[curve.name],) = ax.plot(xs, ys, **_mark(curve))
        for dot in curve.dots * curve.noted:
            small: Any = dict(size=11, ha="right", va="center", color=_colour("soft"))
            beside: Any = dict(textcoords="offset points", annotation_clip=False)
            ax.annotate(f"{dot.temperature:g}", dot.place, (-6, 7), **beside, **small)
    dots = [d for c in scale for d in c.dots]
    ax.update_datalim([(x, y) for d in dots for x in _bar(d.x) for y in _bar(d.y, log)])
    ax.autoscale_view()
    _axes(ax, panel, steps)
    shape: Any = dict(ncols=2, columnspacing=1, frameon=False, fontsize=12, labelcolor="linecolor")
    shape |= dict(borderpad=0, borderaxespad=0, labelspacing=0.3, handlelength=2.2)
    shape |= dict(loc="upper left", bbox_to_anchor=(LEFT / WIDTH, named / height))
    legend = figure.legend(lines.values(), map(str, range(len(lines))), **shape)
    for text, name in zip(legend.get_texts(), lines, strict=True):
        text.set(text=_short(name), parse_math=False)
    return panel._replace(svg=_svg(figure, panel.key), height=height)


def _axes(ax: Any, panel: Panel, steps: Sequence[int]) -> None:
    """Set ticks at round numbers, or at most eight of the steps, and a grid."""
    ax.spines[:].set_visible(False)
    ax.grid(color=_colour("grid"), linewidth=1)
    ax.set_xlabel(panel.x, size=12, color=_colour("soft"))
    low, high = ax.get_ylim()
    if ax.get_yscale() == "log" and high > 6 * low:
        ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    else:
        ax.yaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(ticker.NullLocator())
        axis.set_major_formatter("{x:.10g}")
    if steps:
        ax.set_xticks(steps[:: -max(1, -(-len(steps) // 8))])
    ax.tick_params(length=0, pad=6, labelsize=12, labelcolor=_colour("soft"))


def _bar(e: Estimate, log: bool = False) -> tuple[float, float]:
    """Return the ends of an interval; the value twice where it has none that can be drawn."""
    return e.ends if e.ends and (e.ends[0] > 0 or not log) else (e.value, e.value)


def _short(name: str) -> str:
    """Cut a name in its middle: those of one family differ at their end."""
    name = " ".join(clean(name).split())
    return name if len(name) <= 24 else f"{name[:11].rstrip()}…{name[-12:].lstrip()}"
