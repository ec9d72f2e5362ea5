"""Draw the report's figures by matplotlib, as SVG with the colours of style.css."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from ..intervals import Estimate
from ..results import Results
from .text import clean, heading, number, plain

try:
    import matplotlib
    from matplotlib import ticker
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
except ImportError:  # the extra `demo`; the report stands without figures
    matplotlib = None

WIDTH, HEIGHT = 440, 330  # px, which are points at 72 dpi
LEFT, RIGHT, TOP, BOTTOM = 46, 124, 12, 40
LABEL = 16  # letters of a curve's name beside its end
MARKERS = "os^DvP"
COLOURS = ["ink", "soft", "grid", "paper", *(f"c{k}" for k in range(8)), *(f"r{k}" for k in range(5))]


class Dot(NamedTuple):
    """A point of a curve; note: its temperature, where that is what differs."""

    x: Estimate
    y: Estimate
    note: str = ""


class Curve(NamedTuple):
    """colour: of COLOURS; marker: filled ones first, then hollow; noted: show its notes."""

    name: str
    colour: str
    marker: int
    dots: Sequence[Dot]
    dashed: bool = False
    noted: bool = False


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


def over_steps(results: Results, reference: str) -> dict | None:
    """Draw N-step NELBO, perplexity (the paper's Figure 3) and entropy over steps."""
    look, panels, legend = looks(results, reference), [], {}
    steps = results.steps[:: -max(1, -(-len(results.steps) // 8))][::-1]  # 8 ticks at most
    for metric, title, log in (
        ("n_step_nelbo", "N-step NELBO (nats a token)", False),
        ("perplexity", "generative perplexity", True),
        ("entropy", "entropy of a sample (nats)", False),
    ):
        curves = []
        for name, t in plain(results, reference, first=True):
            dots = [Dot(Estimate(p.steps), m) for p in results.of(name, t) if (m := p.metric(metric))]
            if dots:
                dashed = name == reference and t != 1
                curves.append(Curve(heading(name, t), *look[name], dots, dashed))
        if not curves:
            continue
        own = None if metric == "n_step_nelbo" else results.of_text(metric)
        level = None if own is None or (log and own <= 0) else own
        values = [d.y for c in curves for d in c.dots] + [Estimate(level)] * (level is not None)
        panel = _Panel(
            ("sampling steps", limits([Estimate(n) for n in results.steps], True), True),
            (title, limits(values, log), log),
        )
        panels.append((title, panel.draw(f"steps-{metric}", title, curves, level, ticks=steps)))
        legend |= {c.name: c for c in curves}
    caption = (
        "Over sampling steps, logarithmic; perplexity too. Bars: 95% intervals. Students at "
        f"T = 1 where that was sampled; dashed: {reference} at other temperatures."
    )
    return _figure(legend, panels, caption)


def frontier(results: Results, reference: str) -> dict | None:
    """Draw perplexity against entropy: a panel a number of steps, a point a temperature."""
    look, by_steps = looks(results, reference), {}
    for n in results.steps:
        for name in look:
            dots = [
                Dot(e, p, f"T = {q.temperature:g}")
                for q in results.of(name)
                if q.steps == n and (e := q.metric("entropy")) and (p := q.metric("perplexity"))
            ]
            if dots:
                curve = Curve(name, *look[name], dots, noted=name == reference)
                by_steps.setdefault(n, []).append(curve)
    if not by_steps:
        return None
    text, outside = [results.of_text(k) for k in ("entropy", "perplexity")], ""
    star = None if None in text or min(text) <= 0 else text
    xs, ys = zip(*((d.x, d.y) for found in by_steps.values() for c in found for d in c.dots), strict=True)
    x, y = limits(xs), limits(ys, True)
    if star:
        wide = limits([*xs, Estimate(star[0])]), limits([*ys, Estimate(star[1])], True)
        length = [(b - a, math.log(d / c)) for (a, b), (c, d) in ((x, y), wide)]
        # Far from the samples it would squeeze them into a corner.
        if all(b < 1.5 * a for a, b in zip(*length, strict=True)):
            x, y = wide
        else:
            outside = f" Held-out text lies outside: {number(star[1])} at {star[0]:.2f} nats."
            star = None
    panel = _Panel(("entropy of a sample (nats)", x, False), ("perplexity", y, True))
    panels = []
    for n, found in by_steps.items():
        title = f"Perplexity against entropy at {n} steps"
        panels.append((f"{n} steps", panel.draw(f"frontier-{n}", title, found, star=star)))
    caption = (
        "Perplexity (logarithmic) against entropy: one panel a number of steps, one curve a "
        f"model, one point a temperature, from low (left) to high; {reference}'s are written "
        "beside it. Lower and further right is better: equal entropy at a lower perplexity. "
        f"All panels have the same axes.{outside}"
    )
    return _figure({c.name: c for found in by_steps.values() for c in found}, panels, caption)


def _figure(curves: dict[str, Curve], panels: list, caption: str) -> dict | None:
    """Return what the template shows; None without a panel."""
    legend = [(name, _swatch(curve)) for name, curve in curves.items()]
    return dict(legend=legend, panels=panels, caption=caption) if panels else None


def limits(estimates: Iterable[Estimate], log: bool = False) -> tuple[float, float]:
    """Return the ends of an axis with all estimates, their intervals and some air."""
    values = [v for e in estimates for v in e if v is not None and (v > 0 or not log)]
    # Beyond this the ends would be 0 or infinite.
    low, high = (min(max(f(values), 1e-100 if log else -1e100), 1e100) for f in (min, max))
    if log:
        air = max((high / low) ** 0.06, 1.05)
        return low / air, high * air
    air = max((high - low) * 0.08, 0.002 * (abs(high) or 1), 1e-9)
    return low - air, high + air


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return places near the wanted ones, in their order, at least `gap` apart.

    Where they do not all fit between low and high the gap shrinks.
    """
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    order, out = sorted(range(len(wanted)), key=wanted.__getitem__), list(wanted)
    for i in order:
        out[i] = low = max(out[i], low)
        low += gap
    for i in reversed(order):
        out[i] = high = min(out[i], high)
        high -= gap
    return out


def _colour(name: str) -> str:
    """Return a stand-in for a colour of style.css, which `_svg` replaces."""
    return f"#fe00{COLOURS.index(name):02x}"


def _svg(figure: Figure, key: str = "") -> Markup:
    """Return what stands inside of the SVG element; ids begin with `key`."""
    out = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("ignore")  # letters that matplotlib's font lacks
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "report"})
        figure.savefig(out, format="svg", metadata=nothing, transparent=True)
    inside = re.search(r"</defs>(.*)</svg>", out.getvalue(), re.DOTALL)[1]
    inside = re.sub(r' id="(?!m[0-9a-f]{10}")[^"]*"', "", inside)  # but for markers', in use
    inside = re.sub(r'( id="|xlink:href="#)', rf"\g<1>{key}-", inside)
    inside = re.sub(r"#fe00(\w\w)", lambda m: f"var(--{COLOURS[int(m[1], 16)]})", inside)
    return Markup(re.sub(r"\n\s*", " ", inside))


def _mark(curve: Curve) -> dict:
    """Return the keywords of a curve's line."""
    colour, hollow = _colour(curve.colour), curve.marker // 6 % 2
    return dict(
        color=colour,
        linewidth=2,
        linestyle="--" if curve.dashed else "-",
        marker=MARKERS[curve.marker % 6],
        markersize=8,
        markerfacecolor=_colour("paper") if hollow else colour,
        markeredgecolor=colour if hollow else _colour("paper"),
        clip_on=False,
    )


def _swatch(curve: Curve) -> Markup:
    figure = Figure((32 / 72, 14 / 72), dpi=72)
    figure.add_artist(Line2D([0, 0.5, 1], [0.5] * 3, markevery=[1], **_mark(curve)))
    return _svg(figure)


class _Panel(NamedTuple):
    """Axes: (title, ends, logarithmic) of x and y."""

    x: tuple
    y: tuple

    def draw(self, key, title, curves, level=None, star=None, ticks=None) -> dict:
        """Draw curves with 95% intervals and their names; level, star: of held-out text."""
        figure, right = Figure((WIDTH / 72, HEIGHT / 72), dpi=72), WIDTH - RIGHT
        size = (right - LEFT) / WIDTH, (HEIGHT - TOP - BOTTOM) / HEIGHT
        ax = figure.add_axes((LEFT / WIDTH, BOTTOM / HEIGHT, *size))
        self._axes(ax, ticks)
        ends, text = [], dict(va="center", parse_math=False, annotation_clip=False)
        if level is not None:
            ax.axhline(level, color=_colour("ink"), ls=":", lw=1)
            ends.append((self.x[1][1], level, "held-out text", "ink"))
        for curve in curves:
            colour = _colour(curve.colour)
            bars = dict(color=colour, lw=1.2, alpha=0.75, clip_on=False)
            for e, f, note in curve.dots:
                if f.low is not None and (f.low > 0 or not self.y[2]):
                    ax.plot([e.value] * 2, [f.low, f.high], **bars)
                if e.low is not None:
                    ax.plot([e.low, e.high], [f.value] * 2, **bars)
                if curve.noted:
                    beside = dict(xytext=(-6, 7), textcoords="offset points", ha="right", **text)
                    value = note.removeprefix("T = ")
                    ax.annotate(value, (e.value, f.value), size=10, color=_colour("soft"), **beside)
            xs, ys = [d.x.value for d in curve.dots], [d.y.value for d in curve.dots]
            ax.plot(xs, ys, **_mark(curve))
            ends.append((*max(zip(xs, ys, strict=True)), curve.name, curve.colour))
        if star:
            ax.plot(*star, "*", ms=11, color=_colour("ink"))
            left = star[0] > sum(self.x[1]) / 2
            beside = dict(xytext=(-10 if left else 10, 0), textcoords="offset points", **text)
            ax.annotate("held-out text", star, ha="right" if left else "left", **beside)
        heights = [float(ax.transData.transform(end[:2])[1]) for end in ends]
        places = spread(heights, 14, BOTTOM + 2, HEIGHT - TOP - 4)
        for (a, b, name, colour), y in zip(ends, places, strict=True):
            colour = _colour(colour)
            lead = dict(arrowstyle="-", color=colour, alpha=0.45, shrinkA=0, shrinkB=5, relpos=(0, 0.5))
            beside = dict(xytext=(right + 14, y), textcoords="figure points", arrowprops=lead, **text)
            ax.annotate(_short(name), (a, b), color=colour, **beside)
        said = self._words(curves, level)
        return dict(key=key, title=title, said=said, svg=_svg(figure, key))

    def _axes(self, ax, ticks) -> None:
        ax.spines[:].set_visible(False)
        ax.grid(color=_colour("grid"), lw=1)
        ax.set_axisbelow(True)
        ax.tick_params(length=0, pad=6, labelsize=12, labelcolor=_colour("soft"))
        ax.set_xlabel(self.x[0], size=12, color=_colour("soft"))
        for axis, (_, ends, log) in ((ax.xaxis, self.x), (ax.yaxis, self.y)):
            getattr(ax, f"set_{axis.axis_name}scale")("log" if log else "linear")
            getattr(ax, f"set_{axis.axis_name}lim")(ends)
            axis.set_minor_locator(ticker.NullLocator())
            axis.set_major_formatter("{x:.10g}")
            axis.set_major_locator(_locator(ends, log))
        if ticks:
            ax.set_xticks(ticks, [str(n) for n in ticks])

    def _words(self, curves: Sequence[Curve], level: float | None) -> str:
        """Return the panel in words, for whoever does not see it."""
        said = [f"{self.y[0]} over {self.x[0]}."]
        if level is not None:
            said.append(f"held-out text: {number(level)}.")
        for curve in curves:
            dots = (
                f"{number(d.y.value)} at {number(d.x.value)}" + (f" ({d.note})" if d.note else "")
                for d in curve.dots
            )
            said.append(f"{curve.name}: {', '.join(dots)}.")
        return " ".join(said)


def _locator(ends: tuple[float, float], log: bool):
    """Return round ticks, four to eight of them; on less than an octave evenly spaced ones."""
    for subs in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)) if log else ():
        found = ticker.LogLocator(subs=subs, numticks=400).tick_values(*ends)
        found = [t for t in found if ends[0] <= t <= ends[1]]
        if len(found) >= 4:
            return ticker.FixedLocator(found[:: math.ceil(len(found) / 8)])
    return ticker.MaxNLocator(7, steps=[1, 2, 5, 10])


def _short(name: str) -> str:
    """Cut a name in its middle: those of one family differ at their end."""
    name = " ".join(clean(name).split())
    return name if len(name) <= LABEL else f"{name[: LABEL - 10].rstrip()}…{name[-9:].lstrip()}"
