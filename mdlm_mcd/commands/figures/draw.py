"""Draw the pictures: a matplotlib Figure, or an SVG as text, out of what `data` computes.

Colours are Okabe and Ito's, and each goes with a shape, a hatch, a line style or a word,
for grey printers and the colour-blind. No pyplot: no window, no global state.
"""

from __future__ import annotations

import unicodedata
from contextlib import contextmanager
from pathlib import Path

import jinja2

from .data import Calibration, LatentPath, Regimes, Trajectories

MARK = "mdlm-mcd figures"  # in every file that is written, to know it again

# Okabe & Ito, "Color Universal Design" (2008).
BLUE, ORANGE, GREEN, VERMILION, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9"
RUST = "#A84A00"  # vermilion, dark enough for letters
INK, SOFT, RULE, PAPER = "#1a1a1a", "#595959", "#b8b8b8", "#ffffff"
HIDDEN, SHOWN = "#8c8c8c", "#d6e8f3"  # a token that is masked, and one that is not
# The cases of Eq. 14: fill, hatch, marker, and what they ask.
CASES = {
    "none": ("#e4e4e4", "", "o", "both views see it:\nno loss"),
    "CE": (GREEN, "---", "s", "the teacher alone sees it:\n$\\bf{CE}$ with the truth"),
    "KL": (ORANGE, "////", "D", "masked for both:\n$\\bf{KL}$(student, teacher)"),
}
LINES = ((SKY, ":"), (GREEN, "-."), (VERMILION, "--"), (BLUE, "-"))  # one a vocabulary

RC = {
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "figure.titlesize": 13,
    "figure.titleweight": "bold",
    "axes.edgecolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.titlecolor", "axes.labelcolor"), INK),
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), SOFT),
    "hatch.linewidth": 0.6,
    # The same bytes in every run: no random ids, letters as paths.
    "svg.hashsalt": "mdlm-mcd",
    "svg.fonttype": "path",
    "path.simplify_threshold": 0.4,
}
CENTRED = {"ha": "center", "va": "center"}
CIRCLE = {"marker": "o", "mfc": "white", "mec": INK, "ls": "none"}
MASKED = {"facecolor": HIDDEN, "edgecolor": INK, "hatch": "xxxx"}
HALO = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
ARROW = {"arrowstyle": "->", "color": INK, "shrinkB": 4}
TIME = "time $t$ (log-linear: $\\alpha_t = 1 - t$)"


@contextmanager
def look():
    """Give matplotlib `RC` alone, whatever its user has set."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield


def _figure(width: float, height: float, title: str):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def latent_paths(paths: list[LatentPath]):
    """Draw Figure 1: a Gaussian path, its projection, and the one scalar that decides."""
    title = "A token is masked once its strongest rival in $w_t$ overtakes it, "
    figure = _figure(5.5 * len(paths), 6.8, title + "and that is once $\\alpha_t < u$")
    heights = {"height_ratios": [5, 0.8, 2.8]}
    grid = figure.subplots(3, len(paths), sharex=True, sharey="row", gridspec_kw=heights)
    for (above, middle, below), path, i in zip(grid.T, paths, (1, 2), strict=True):
        t, at = path.t.numpy(), path.overtaken
        above.set_title(f"noise draw {i}: $u = F_Y(Y) = {path.u:.2f}$")
        above.plot(t, path.w_t[:, 1:].numpy(), color=RULE, lw=0.7, zorder=1)
        above.plot(t, path.rival.numpy(), color=INK, lw=1.6, ls=(0, (5, 2)), zorder=3)
        above.plot(t, path.token.numpy(), color=ORANGE, lw=3.2, zorder=4)
        middle.axvspan(0, at, facecolor=SHOWN, edgecolor="none")
        middle.axvspan(at, 1, lw=0, **MASKED)
        middle.text(at / 2, 0.5, "mouse", weight="bold", **CENTRED)
        middle.text((1 + at) / 2, 0.5, "[MASK]", bbox=HALO, **CENTRED)
        middle.set(yticks=[], ylim=(0, 1))
        middle.spines["left"].set_visible(False)
        middle.tick_params(axis="x", length=0)
        below.plot(t, path.alpha_t.numpy(), color=BLUE, lw=2.4)
        below.axhline(path.u, color=INK, lw=1.4, ls="-.")
        below.set(xlim=(0, 1), ylim=(0, 1), yticks=[0, 0.5, 1], xlabel=TIME)
        overtaking = path.rival[path.t == at].item()
        for axis, x, y in ((above, at, overtaking), (below, path.crossed, path.u)):
            axis.plot([x], [y], ms=8, mew=1.5, zorder=5, **CIRCLE)
        for axis in (above, middle, below):
            axis.axvline(at, color=INK, lw=0.9, ls=(0, (2, 2)), zorder=1)
    latent = "latent $w_t = \\tilde\\alpha_t x_0 + \\tilde\\sigma_t\\epsilon$"
    for axis, name in zip(grid[:, 0], (latent, "$P(w_t)$", "level"), strict=True):
        axis.set_ylabel(name)
    figure.align_ylabels(grid[:, 0])

    # The curves are named on the first column, the end of one on the last.
    above, below, path = grid[0, 0], grid[2, 0], paths[0]
    tenth = len(path.t) // 10
    y, low = path.token[tenth].item() + 0.3, path.w_t[3 * tenth].min().item() - 0.35
    rival = path.t[8 * tenth].item(), path.rival[8 * tenth].item()
    right = {"ha": "right", "va": "center", "arrowprops": ARROW}
    above.text(0.04, y, "its own coordinate, \u201cmouse\u201d", va="bottom", weight="bold")
    above.annotate("its strongest rival", rival, (0.62, 2.6), **right)
    others = f"the other {path.w_t.shape[1] - 2} coordinates"
    above.text(0.04, low, others, color=SOFT, va="top")
    below.text(0.16, 0.87, "$\\alpha_t$", color=BLUE, fontsize=12)
    below.text(0.04, path.u + 0.03, "$u$, fixed for the whole path", va="bottom")
    path = paths[-1]
    turn = 1 - 1 / path.w_t.shape[1]
    here = turn, path.token[(path.t - turn).abs().argmin()].item()
    why = "past $\\alpha_t = 1/K$ noise alone would show it\n"
    why += "too often: there $\\tilde\\alpha_t < 0$"
    grid[0, -1].annotate(why, here, (0.97, -2.0), fontsize=9, **right)
    return figure


def regimes(shown: Regimes):
    """Draw Figure 2: u of each word, the two views, and what Eq. 14 asks."""
    figure = _figure(12, 6.2, "One $u$ a token decides who sees it, and so what it teaches")
    levels, table = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 2.2]})
    right = len(shown.words) - 0.45

    def mark(x, y, case):
        fill, _, marker, _ = CASES[case]
        style = dict(marker=marker, ms=11, mfc=fill, mec=INK, mew=1.2, ls="none")
        levels.plot([x], [y], clip_on=False, zorder=3, **style)

    edges = [0.0, shown.alpha_t, shown.alpha_s, 1.0]
    for low, high, (case, (fill, *_, meaning)) in zip(
        edges, edges[1:], CASES.items(), strict=False
    ):
        levels.axhspan(low, high, facecolor=fill, alpha=0.14, lw=0)
        mark(right + 0.25, (low + high) / 2, case)
        levels.text(right + 0.45, (low + high) / 2, meaning, va="center", linespacing=1.4)
    for i, (u, case) in enumerate(zip(shown.u.tolist(), shown.cases, strict=True)):
        levels.plot([i, i], [0, u], color=SOFT, lw=1.2, zorder=2)
        mark(i, u, case)
    names = (f"student's $\\alpha_t$ = {edges[1]:.2f}", f"teacher's $\\alpha_s$ = {edges[2]:.2f}")
    levels.set(ylim=(0, 1), ylabel="$u$ of the token")
    levels.set_yticks(edges, ["0", *names, "1"])
    for level, label in zip(edges[1:3], levels.get_yticklabels()[1:3], strict=True):
        levels.axhline(level, color=BLUE, lw=1.8, zorder=1)
        label.set_color(BLUE)
    levels.tick_params(axis="x", length=0)

    rows = ("Eq. 14 asks for", "student's view $z_t$", "teacher's view $z_s$", "the text $x_0$")
    for y, masked in enumerate((None, shown.masked_t, shown.masked_s, [False] * len(shown.words))):
        for i, (word, case) in enumerate(zip(shown.words, shown.cases, strict=True)):
            style, bold = {"facecolor": "white", "edgecolor": INK}, masked is None
            if bold:
                style |= {"facecolor": CASES[case][0], "hatch": CASES[case][1]}
                word = "\u2013" if case == "none" else case
            elif masked[i]:
                style, word = MASKED, ""
            table.bar(i, 0.76, 0.92, y - 0.38, lw=0.8, **style)
            how = {
                "weight": "bold" if bold else "normal",
                "bbox": HALO if style.get("hatch") else None,
            }
            table.text(i, y, word, fontsize=9, parse_math=False, **how, **CENTRED)
        if y in (1, 2):
            text = f"{int(masked.sum())} of {len(masked)} masked"
            table.text(right + 0.18, y, text, va="center")
    table.set_yticks(range(len(rows)), rows)
    table.set(xticks=[], xlim=(-0.55, right), ylim=(-0.5, len(rows) - 0.5))
    table.tick_params(length=0)
    table.spines[:].set_visible(False)
    return figure


def calibration(curves: list[Calibration]):
    """Draw Lemma 3.1 for several vocabularies: over the ratio, and over time."""
    figure = _figure(11, 4.9, "The larger the vocabulary, the more signal a token needs to be seen")
    left, right = figure.subplots(1, 2)
    for (num_classes, *shown), (color, dash) in zip(curves, LINES, strict=True):
        ratio, alpha_t, t, alpha_tilde = (x.numpy() for x in shown)
        left.plot(ratio, alpha_t, label=f"K = {num_classes:,}", color=color, ls=dash, lw=2.4)
        right.plot(t, alpha_tilde, color=color, ls=dash, lw=2.4)
    left.set(
        xlabel="latent signal over noise, $\\tilde\\alpha_t / \\tilde\\sigma_t$",
        ylabel="$\\alpha_t = F_Y(\\tilde\\alpha_t / \\tilde\\sigma_t)$",
        title="chance that a token is visible",
        xlim=(ratio[0], ratio[-1]),
    )
    title = "the Gaussian schedule behind $\\alpha_t = 1 - t$"
    right.set(xlabel=TIME, ylabel="$\\tilde\\alpha_t$", title=title, xlim=(0, 1))
    right.axhline(0, color=SOFT, lw=0.8)
    for axis in (left, right):
        axis.grid(color=RULE, lw=0.5, alpha=0.6)
    left.legend(edgecolor="none", framealpha=0.9, loc="lower right", handlelength=3.4)
    return figure


def clocks(shown: Trajectories) -> str:
    """Return the title of the trajectories."""
    *few, most = (str(run.steps) for run in shown.runs)
    steps = f"{', '.join(few)} and {most} steps"
    return f"One latent, three clocks: the same u and the same noise at {steps}"


def trajectory(shown: Trajectories):
    """Draw when each word opened at each number of steps, on paper."""
    title = clocks(shown).replace(" u ", " $u$ ")
    figure = _figure(11.5, 1.7 + 0.27 * len(shown.u), title)
    rows = range(len(shown.u))
    axes = figure.subplots(1, len(shown.runs), sharey=True)
    for axis, run in zip(axes, shown.runs, strict=True):
        share = (run.opened.double() / run.steps).numpy()
        axis.barh(rows, share, 0.74, lw=0.4, **MASKED)
        axis.barh(rows, 1 - share, 0.74, left=share, color=SHOWN, lw=0)
        axis.plot(shown.u.numpy(), rows, ms=6, mew=1.2, **CIRCLE)
        for i, (word, other) in enumerate(zip(run.words, shown.differs(run), strict=True)):
            how = {"weight": "bold", "color": RUST} if other else {}
            axis.text(1.03, i, word + " *" * other, va="center", parse_math=False, **how)
        axis.set_title(f"{run.steps} steps, {run.evaluations} network calls")
        axis.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6), yticks=[])
        axis.set_xlabel("share of the steps done")
    note = "dark: masked, light: open; circle: the word's $u$; bold with *: not the word drawn in "
    figure.supxlabel(f"{note}{shown.runs[-1].steps} steps", x=0.01, ha="left", fontsize=10)
    return figure


# In motion -------------------------------------------------------------------------------

WIDTH, MARGIN, GAP, LINE = 1000, 28, 6, 36  # px
MOVING = 0.75  # the share of a loop before it rests


def cells(shown: Trajectories) -> list[tuple[float, int, float]]:
    """Return (x, line, width) of each word's cell, the same in every run."""

    def wide(word: str) -> float:  # wide characters take two places
        return 16 + 9.1 * sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in word)

    out, x, line = [], float(MARGIN), 0
    for words in zip(*(run.words for run in shown.runs), strict=True):
        width = max(map(wide, words))
        if x + width > WIDTH - MARGIN:
            x, line = float(MARGIN), line + 1
        out.append((x, line, width))
        x += width + GAP
    return out


def animation(shown: Trajectories, alt: str) -> str:
    """Draw the trajectories in motion: one SVG that needs no script and no second file.

    CSS moves it, so it plays wherever an image is shown. On paper, and for readers who
    asked their system for less motion, it stands still at the end.
    """
    placed = cells(shown)
    panel = 80 + (placed[-1][1] + 1) * LINE
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(Path(__file__).with_name("animation.svg").read_text("utf-8"))
    return template.render(
        globals(),  # colours and sizes
        shown=shown,
        title=clocks(shown),
        alt=alt,
        cells=placed,
        height=88 + len(shown.runs) * panel,
        bar=WIDTH - 2 * MARGIN,
        panel=panel,
        percent=lambda share: f"{100 * MOVING * share:.3f}".rstrip("0").rstrip(".") + "%",
    )
