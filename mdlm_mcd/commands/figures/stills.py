"""Draw the pictures that stand still: each function takes data and returns a Figure.

No pyplot: a figure drawn here leaves no global state, opens no window and needs no
display.
"""

from __future__ import annotations

from . import style
from .data import Calibration, LatentPath, Regimes, Trajectories
from .style import DISCRETE, HIDDEN, INK, LATENT, RULE, SHOWN, SOFT

HALO = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
ARROW = {"arrowstyle": "->", "color": INK, "shrinkB": 4}
TIME = "time $t$ (log-linear: $\\alpha_t = 1 - t$)"


def _figure(width: float, height: float, title: str):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def _crossing(axis, x: float, y: float) -> None:
    axis.plot([x], [y], "o", ms=8, mfc="white", mec=INK, mew=1.5, zorder=5)


# Figure 1 ----------------------------------------------------------------------------


def latent_paths(paths: list[LatentPath]):
    """Draw the Gaussian path, its projection, and the one scalar that decides."""
    figure = _figure(
        5.5 * len(paths),
        6.8,
        "A token is masked once its strongest rival in $w_t$ overtakes it, "
        "and that is once $\\alpha_t < u$",
    )
    grid = figure.subplots(
        3,
        len(paths),
        sharex=True,
        sharey="row",
        squeeze=False,
        gridspec_kw={"height_ratios": [5, 0.8, 2.8]},
    )
    for i, path in enumerate(paths):
        gaussian, projected, scalar = grid[:, i]
        _gaussian(gaussian, path, path.overtaken)
        _projected(projected, path.overtaken)
        _scalar(scalar, path)
        gaussian.set_title(f"noise draw {i + 1}: $u = F_Y(Y) = {path.u:.2f}$")
        for axis in (gaussian, projected, scalar):
            axis.axvline(path.overtaken, color=INK, lw=0.9, ls=(0, (2, 2)), zorder=1)
    _explain(*grid[[0, 2], 0], paths[0])
    _explain_the_end(grid[0, -1], paths[-1])
    for axis, name in zip(
        grid[:, 0],
        ("latent $w_t = \\tilde\\alpha_t x_0 + \\tilde\\sigma_t\\epsilon$", "$P(w_t)$", "level"),
        strict=True,
    ):
        axis.set_ylabel(name)
    figure.align_ylabels(grid[:, 0])
    return figure


def _gaussian(axis, path: LatentPath, at: float) -> None:
    others = [j for j in range(path.w_t.shape[1]) if j != path.x0]
    t = path.t.numpy()
    axis.plot(t, path.w_t[:, others].numpy(), color=RULE, lw=0.7, zorder=1)
    axis.plot(t, path.rival.numpy(), color=INK, lw=1.6, ls=(0, (5, 2)), zorder=3)
    axis.plot(t, path.token.numpy(), color=LATENT, lw=3.2, zorder=4)
    _crossing(axis, at, path.rival[(path.t - at).abs().argmin()].item())


def _projected(axis, at: float) -> None:
    axis.axvspan(0, at, facecolor=SHOWN, edgecolor="none")
    axis.axvspan(at, 1, facecolor=HIDDEN, edgecolor=INK, hatch="xxxx", lw=0)
    axis.text(at / 2, 0.5, "mouse", ha="center", va="center", weight="bold")
    axis.text((1 + at) / 2, 0.5, "[MASK]", ha="center", va="center", bbox=HALO)
    axis.set_yticks([])
    axis.set_ylim(0, 1)
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="x", length=0)


def _scalar(axis, path: LatentPath) -> None:
    axis.plot(path.t.numpy(), path.alpha_t.numpy(), color=DISCRETE, lw=2.4)
    axis.axhline(path.u, color=INK, lw=1.4, ls="-.")
    _crossing(axis, path.crossed, path.u)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.set_yticks([0, 0.5, 1])
    axis.set_xlabel(TIME)


def _explain(gaussian, scalar, path: LatentPath) -> None:
    """Name the curves, on one column."""
    tenth = len(path.t) // 10
    gaussian.text(
        0.04,
        path.token[tenth].item() + 0.3,
        "its own coordinate, \u201cmouse\u201d",
        va="bottom",
        weight="bold",
    )
    rival = path.t[8 * tenth].item(), path.rival[8 * tenth].item()
    gaussian.annotate(
        "its strongest rival", rival, (0.62, 2.6), ha="right", va="center", arrowprops=ARROW
    )
    low = path.w_t[3 * tenth].min().item()
    gaussian.text(
        0.04, low - 0.35, f"the other {path.w_t.shape[1] - 2} coordinates", color=SOFT, va="top"
    )
    scalar.text(0.16, 0.87, "$\\alpha_t$", color=DISCRETE, fontsize=12)
    scalar.text(0.04, path.u + 0.03, "$u$, fixed for the whole path", va="bottom")


def _explain_the_end(axis, path: LatentPath) -> None:
    turn = 1 - 1 / path.w_t.shape[1]
    here = path.token[(path.t - turn).abs().argmin()].item()
    axis.annotate(
        "past $\\alpha_t = 1/K$ noise alone would show it\ntoo often: there $\\tilde\\alpha_t < 0$",
        (turn, here),
        (0.97, -2.0),
        ha="right",
        va="center",
        fontsize=9,
        arrowprops=ARROW,
    )


# Figure 2 ----------------------------------------------------------------------------


def regimes(shown: Regimes):
    """Draw u of each word against two levels, the two views, and what Eq. 14 asks."""
    count = len(shown.words)
    figure = _figure(12, 6.2, "One $u$ a token decides who sees it, and so what it teaches")
    levels, table = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 2.2]})
    right = count - 0.45
    edges = [0.0, shown.alpha_t, shown.alpha_s, 1.0]
    meanings = (
        "both views see it:\nno loss",
        "the teacher alone sees it:\n$\\bf{CE}$ with the truth",
        "masked for both:\n$\\bf{KL}$(student, teacher)",
    )
    for i, case in enumerate(("none", "CE", "KL")):
        low, high = edges[i], edges[i + 1]
        levels.axhspan(low, high, facecolor=style.TERMS[case], alpha=0.14, lw=0)
        levels.plot([right + 0.25], [(low + high) / 2], clip_on=False, **_marker(case))
        levels.text(right + 0.45, (low + high) / 2, meanings[i], va="center", linespacing=1.4)
    for i, (u, case) in enumerate(zip(shown.u.tolist(), shown.regimes, strict=True)):
        levels.plot([i, i], [0, u], color=SOFT, lw=1.2, zorder=2)
        levels.plot([i], [u], clip_on=False, zorder=3, **_marker(case))
    for level in (shown.alpha_s, shown.alpha_t):
        levels.axhline(level, color=DISCRETE, lw=1.8, zorder=1)
    levels.set_ylim(0, 1)
    levels.set_yticks(
        edges,
        [
            "0",
            f"student's $\\alpha_t$ = {shown.alpha_t:.2f}",
            f"teacher's $\\alpha_s$ = {shown.alpha_s:.2f}",
            "1",
        ],
    )
    for label in levels.get_yticklabels()[1:3]:
        label.set_color(DISCRETE)
    levels.set_ylabel("$u$ of the token")
    levels.tick_params(axis="x", length=0)
    _views(table, shown, right)
    table.set_xlim(-0.55, right)
    return figure


def _marker(case: str) -> dict:
    return dict(
        marker=style.MARKERS[case], ms=11, mfc=style.TERMS[case], mec=INK, mew=1.2, ls="none"
    )


def _views(axis, shown: Regimes, right: float) -> None:
    rows = (
        ("the text $x_0$", None),
        ("teacher's view $z_s$", shown.pair.masked_s[0]),
        ("student's view $z_t$", shown.pair.masked_t[0]),
        ("Eq. 14 asks for", None),
    )
    last = len(rows) - 1
    for row, (_, masked) in enumerate(rows):
        y = last - row
        for i, (word, case) in enumerate(zip(shown.words, shown.regimes, strict=True)):
            face, hatch, shown_word = "white", "", word
            if row == last:
                face, hatch = style.TERMS[case], style.HATCHES[case]
                shown_word = "–" if case == "none" else case
            elif masked is not None and masked[i]:
                face, hatch, shown_word = HIDDEN, "xxxx", ""
            axis.bar(i, 0.76, 0.92, y - 0.38, color=face, edgecolor=INK, lw=0.8, hatch=hatch)
            axis.text(
                i,
                y,
                shown_word,
                ha="center",
                va="center",
                fontsize=9,
                parse_math=False,
                weight="bold" if row == last else "normal",
                bbox=HALO if hatch else None,
            )
        if masked is not None:
            axis.text(right + 0.18, y, f"{int(masked.sum())} of {len(masked)} masked", va="center")
    axis.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.set_ylim(-0.5, len(rows) - 0.5)
    for spine in axis.spines.values():
        spine.set_visible(False)


# Lemma 3.1 ---------------------------------------------------------------------------


def calibration(curves: list[Calibration]):
    """Draw Lemma 3.1 for several vocabularies: over the ratio, and over time."""
    figure = _figure(11, 4.9, "The larger the vocabulary, the more signal a token needs to be seen")
    left, right = figure.subplots(1, 2)
    for curve, (color, dash) in zip(curves, style.LINES, strict=True):
        line = dict(color=color, ls=dash, lw=2.4)
        ratio, alpha_t, t, alpha_tilde = (x.numpy() for x in curve[1:])
        left.plot(ratio, alpha_t, label=f"K = {curve.num_classes:,}", **line)
        right.plot(t, alpha_tilde, **line)
    for axis, x, y, title in (
        (
            left,
            "latent signal over noise, $\\tilde\\alpha_t / \\tilde\\sigma_t$",
            "$\\alpha_t = F_Y(\\tilde\\alpha_t / \\tilde\\sigma_t)$",
            "chance that a token is visible",
        ),
        (right, TIME, "$\\tilde\\alpha_t$", "the Gaussian schedule behind $\\alpha_t = 1 - t$"),
    ):
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        axis.set_title(title)
        axis.grid(color=RULE, lw=0.5, alpha=0.6)
    right.axhline(0, color=SOFT, lw=0.8)
    left.set_xlim(ratio[0], ratio[-1])
    right.set_xlim(0, 1)
    left.legend(frameon=True, edgecolor="none", framealpha=0.9, loc="lower right", handlelength=3.4)
    return figure


# One latent, three clocks ------------------------------------------------------------


def trajectory(shown: Trajectories):
    """Draw when each word opened at each number of steps, on paper."""
    count = len(shown.u)
    figure = _figure(
        11.5,
        1.7 + 0.27 * count,
        "One latent, three clocks: the same $u$ and the same noise at "
        + ", ".join(str(run.steps) for run in shown.runs[:-1])
        + f" and {shown.runs[-1].steps} steps",
    )
    axes = figure.subplots(1, len(shown.runs), sharey=True)
    for axis, run in zip(axes, shown.runs, strict=True):
        share = (run.opened.double() / run.steps).numpy()
        rows = range(count)
        axis.barh(rows, share, 0.74, color=HIDDEN, edgecolor=INK, lw=0.4, hatch="xxxx")
        axis.barh(rows, 1 - share, 0.74, left=share, color=SHOWN, lw=0)
        axis.plot(shown.u.numpy(), rows, "o", ms=6, mfc="white", mec=INK, mew=1.2)
        other = shown.differs(run).tolist()
        for i, word in enumerate(run.words):
            axis.text(
                1.03,
                i,
                word + " *" * other[i],
                va="center",
                parse_math=False,
                weight="bold" if other[i] else "normal",
                color=style.RUST if other[i] else INK,
            )
        axis.set_title(f"{run.steps} steps, {run.evaluations} network calls")
        axis.set_xlim(0, 1)
        axis.set_ylim(count - 0.4, -0.6)
        axis.set_yticks([])
        axis.set_xlabel("share of the steps done")
    figure.supxlabel(
        "dark: masked, light: open; circle: the word's $u$; bold with *: not the word "
        f"drawn in {shown.runs[-1].steps} steps",
        x=0.01,
        ha="left",
        fontsize=10,
    )
    return figure
