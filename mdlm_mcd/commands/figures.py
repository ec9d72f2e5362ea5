"""`mdlm-mcd figures`: the paper's pictures, drawn by the functions they are about.

Colours are Okabe and Ito's, and each goes with a dash, a marker or a word, for grey printers
and the colour-blind. docs/paper.md shows what comes out.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import jinja2
import torch
from torch import Tensor

from .. import coupling, duality, laws
from ..checkpoints.files import make_folder
from ..errors import border, printable
from ..evaluation import candidates
from ..sampling import Latent, sample

STEPS = (8, 32, 512)
LENGTH = 24  # tokens of a model's sequence: as many as are read at a glance

# Okabe & Ito, "Color Universal Design" (2008).
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
INK, GREY, LIGHT = "#1a1a1a", "#8c8c8c", "#d6e8f3"
VOCABULARIES = {2: (GREY, ":"), 64: (GREEN, "-."), 1024: (VERMILION, "--"), 50258: (BLUE, "-")}
LOOK = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
    "figure.titleweight": "bold",
    "legend.frameon": False,
    "svg.hashsalt": "mdlm-mcd",  # the same bytes in every run
}


def configure(parser) -> None:
    parser.description = (
        "Draws latent paths and their projection, the three cases of Eq. 14, alpha_t against "
        "the signal-to-noise ratio, and one latent opening at 8, 32 and 512 steps: of a "
        "checkpoint, or of a built-in language whose denoiser is exact. Needs mdlm-mcd[demo]."
    )
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="where to write")
    add("--model", metavar="CKPT", help="whose trajectory; what mdlm-mcd sweep takes")
    add("--weights", choices=("ema", "raw"), default="ema", help="of the model")
    add("--tokenizer", metavar="NAME_OR_PATH")
    add("--seed", type=int, default=10, help="of the latent")
    parser.epilog = "Example: mdlm-mcd figures --out figures"
    parser.set_defaults(call=call)


def call(args) -> None:
    with border("The pictures need matplotlib", "pip install 'mdlm-mcd[demo]'"):
        import matplotlib.style

    model = LANGUAGE
    if args.model:
        how = dict(which=args.weights, tokenizer=args.tokenizer)
        model = candidates.open_model(candidates.Source.parse(args.model, **how))
    moving, out = trajectory(model, args.seed), make_folder(Path(args.out))
    (out / "trajectory_animated.svg").write_text(moving, "utf-8")
    with matplotlib.style.context(LOOK, after_reset=True):
        for draw in (latent_paths, regimes, calibration):
            draw().savefig(out / f"{draw.__name__}.svg", metadata={"Date": None})
    print(f"Wrote 4 pictures to {args.out}.")


def _figure(width: float, height: float, title: str):
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    figure = Figure(figsize=(width, height))
    figure.suptitle(title)
    return figure


def log_linear(t: Tensor) -> Tensor:
    """Return MDLM's alpha_t = 1 - t, without the offsets that hosts add at its ends."""
    return 1.0 - t


def latent_paths(seeds=(1, 0), num_classes: int = 24):
    """Draw Figure 1: a path by Eq. 9, its projection by Eq. 8, and alpha_t against u.

    The token's id is 0, the mask's the last. By Theorem 3.3 the path is projected to the
    mask from where alpha_t < u.
    """
    title = "A token is masked once its strongest rival in $w_t$ overtakes it: once $\\alpha_t<u$"
    figure, t = _figure(11, 6, title), torch.linspace(0, 1, 403, dtype=torch.float64)[1:-1]
    alpha_t = log_linear(t)
    axes = figure.subplots(2, len(seeds), sharex=True, sharey="row")
    for (above, below), seed in zip(axes.T, seeds, strict=True):
        generator = coupling.counter_generator(seed, "latent path")
        eps = torch.randn(num_classes, dtype=torch.float64, generator=generator)
        u = duality.to_uniform(eps, 0, num_classes).item()
        w_t = duality.latent(0, eps, *duality.calibrate(alpha_t, num_classes))
        since = t[duality.project(w_t, 0, num_classes - 1) != 0][0].item()
        above.plot(t, w_t[:, 1:], color=GREY, lw=0.5)
        above.plot(t, w_t[:, 1:].amax(1), color=INK, ls="--", label="its strongest rival")
        above.plot(t, w_t[:, 0], color=ORANGE, lw=3, label="the token's own coordinate")
        below.plot(t, alpha_t, color=BLUE, lw=2, label="$\\alpha_t$")
        below.axhline(u, color=INK, ls="-.", label="$u = F_Y(Y)$, fixed for the whole path")
        for axis in (above, below):
            axis.axvspan(since, 1, color=LIGHT, zorder=0, label="$P(w_t)$ is the mask")
        above.set(title=f"noise draw {seed}: $u={u:.2f}$", ylabel="latent $w_t$")
        below.set(xlabel="time $t$", xlim=(0, 1), ylim=(0, 1))
        below.legend()
    axes[0, 0].legend()
    return figure


def regimes(t: float = 0.65, s: float = 0.35):
    """Draw Figure 2: u of each word, the levels of both views, and what Eq. 14 asks."""
    words = "one scalar u per token locks the whole path of a sentence".split()
    x0, generator = torch.arange(len(words))[None], coupling.counter_generator(1, "regimes")
    u = laws.draw_u(1, len(words), dtype=torch.float64, generator=generator)
    times = torch.tensor([[t], [s]], dtype=torch.float64)
    pair = coupling.couple(x0, u, *times, log_linear, len(words))
    cases = (
        ("no loss", GREY, "o", "both views see it"),
        ("CE", GREEN, "s", "the teacher alone sees it:\nCE with the truth"),
        ("KL", ORANGE, "D", "masked for both:\nKL(student, teacher)"),
    )
    figure = _figure(12, 5, "One $u$ a token decides who sees it, and so what it teaches")
    axis, labels = figure.subplots(), []
    views = (pair.masked_s[0].int() + pair.masked_t[0].int()).tolist()
    for i, (word, level, masked) in enumerate(zip(words, u[0].tolist(), views, strict=True)):
        case, color, marker, _ = cases[masked]
        axis.vlines(i, 0, level, color=GREY)
        axis.plot(i, level, marker, color=color, ms=11, mec=INK, clip_on=False)
        labels.append(f"{word}\n{case}")
    levels = [0.0, *log_linear(times).flatten().tolist(), 1.0]
    for low, high, (_, color, _, meaning) in zip(levels, levels[1:], cases, strict=False):
        axis.axhspan(low, high, color=color, alpha=0.15, lw=0)
        axis.text(len(words) - 0.4, (low + high) / 2, meaning, va="center")
    axis.hlines(levels[1:3], -0.5, len(words) - 0.5, color=BLUE, lw=2)
    names = f"student's $\\alpha_t$ = {1 - t:.2f}", f"teacher's $\\alpha_s$ = {1 - s:.2f}"
    axis.set_yticks(levels, ["0", *names, "1"])
    axis.set_xticks(range(len(words)), labels)
    axis.set(ylabel="$u$ of the token", xlim=(-0.5, len(words) + 2), ylim=(0, 1))
    return figure


def calibration():
    """Draw Lemma 3.1 for several vocabularies: over the ratio, and over time."""
    figure = _figure(11, 4.5, "The larger the vocabulary, the more signal a token needs to be seen")
    left, right = figure.subplots(1, 2)
    ratio = torch.linspace(-4, 8, 401, dtype=torch.float64)
    # Evenly in log alpha_t / (1 - alpha_t): large vocabularies turn close to t = 1.
    t = torch.linspace(-12, 12, 401, dtype=torch.float64).sigmoid()
    for k, (color, dash) in VOCABULARIES.items():
        look = dict(label=f"K = {k:,}", color=color, ls=dash, lw=2)
        left.plot(ratio, duality.NoiseGap(k).cdf(ratio), **look)
        right.plot(t, duality.calibrate(log_linear(t), k)[0], **look)
    left.set(xlabel="$\\tilde\\alpha_t / \\tilde\\sigma_t$", ylabel="$\\alpha_t = F_Y$ of it")
    left.set_title("chance that a token is visible")
    right.set(xlabel="time $t$", ylabel="$\\tilde\\alpha_t$")
    right.set_title("the Gaussian schedule behind $\\alpha_t = 1 - t$")
    left.legend()
    return figure


# One latent at three numbers of steps ----------------------------------------------------

MARGIN, CELL, COLUMNS, LINE = 28, 118, 8, 36  # px; columns
BAR = CELL * COLUMNS
MOVING = 0.8  # the share of a loop before it rests


def legible(word: str, most: int = 12) -> str:
    """Return a decoded token in one short line; its spaces are dots."""
    word = printable(word.replace(" ", "\u00b7"))
    return word if len(word) <= most else word[: most - 1] + "\u2026"


def trajectory(model: candidates.Candidate, seed: int) -> str:
    """Draw one `Latent(seed)` of a model opening at each number of `STEPS`.

    Returns an SVG without script, which plays wherever an image is shown. Each step opens
    an equal share of the tokens, so token i opens after step floor(u_i steps) + 1.
    """
    length, latent = min(model.length, LENGTH), Latent(seed)
    u = latent.u(1, length)[0]
    how = dict(alpha=model.alpha, mask_index=model.mask_index, vocab_size=model.vocab_size)
    how |= dict(latent=latent, schedule="uniform", device=model.device)
    runs = {n: sample("locked", model.denoise, 1, length, n, **how) for n in STEPS}
    last = runs[STEPS[-1]].tokens[0]
    height = 80 + -(-length // COLUMNS) * LINE
    panels = []
    for top, (steps, run) in zip(itertools.count(62, height), runs.items(), strict=False):
        opens = MOVING * ((u * steps).floor() + 1) / steps
        words = [
            {
                "x": MARGIN + i % COLUMNS * CELL,
                "y": top + 30 + i // COLUMNS * LINE,
                "text": legible(model.tokenizer.decode([token])),
                "differs": token != last[i],
                "opens": opens[i],
            }
            for i, token in enumerate(run.tokens[0].tolist())
        ]
        widths = [f"{BAR * min(n / steps, 1):.0f}" for n in range(round(steps / MOVING))]
        panel = dict(top=top, bar=top + height - 42, words=words, widths=widths)
        panels.append(panel | dict(steps=steps, evaluations=run.evaluations))
    given = dict(label=model.label, height=88 + len(STEPS) * height, width=BAR, panels=panels)
    how = dict(autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    template = Path(__file__).with_name("trajectory.svg").read_text("utf-8")
    places = [MARGIN + BAR * x for x in u.tolist()]
    return jinja2.Template(template, **how).render(**given, places=places)


# A language with an exact denoiser, for pictures without a model -------------------------

SENTENCES = """\
a tiny grey mouse crept under the kitchen door and stole a piece of cheese
a great white horse leapt over the garden gate and ate a basket of apples
a hungry black bear walked through the forest camp and found a jar of honey
a clever red fox slipped behind the wooden barn and took a nest of eggs
a sleepy brown dog lay beside the village well and hid a pile of bones
a noisy green parrot flew into the captain's cabin and cracked a bag of nuts
a young striped cat sat near the harbour wall and licked a bowl of cream
a patient old heron stood above the quiet pond and caught a pair of frogs
"""
WORDS = sorted(set(SENTENCES.split()))
MASK_INDEX = len(WORDS)
IDS = torch.tensor([[WORDS.index(w) for w in line.split()] for line in SENTENCES.splitlines()])
MISPRINT = 1e-4


def denoise(z: Tensor, rows: Tensor) -> Tensor:
    """Return log p(x0_i | visible words), by Bayes' rule; see `sampling` for z and rows.

    A sentence is one of eight, equally likely; then each word is, with probability
    MISPRINT, replaced by any of the vocabulary. As this is exact, a sampler's every error
    is its own: words that open in one step are drawn as if they were independent.
    """
    other = MISPRINT / len(WORDS)
    sequence, position = rows.nonzero(as_tuple=True)
    seen = z[sequence, None]  # (rows, 1, length) against (sentences, length)
    agrees = torch.where(seen == IDS, math.log1p(other - MISPRINT), math.log(other))
    agrees = torch.where(seen == MASK_INDEX, 0.0, agrees.double())
    p = torch.zeros(len(sequence), len(WORDS) + 1, dtype=torch.float64)
    p[:, :MASK_INDEX] = other
    p.scatter_add_(1, IDS.T[position], (1 - MISPRINT) * agrees.sum(-1).softmax(-1))
    return p.log()


LANGUAGE = candidates.Candidate(
    label="eight sentences",
    denoise=denoise,
    alpha=log_linear,
    mask_index=MASK_INDEX,
    vocab_size=len(WORDS) + 1,
    length=IDS.shape[1],
    tokenizer=SimpleNamespace(decode=lambda ids: " ".join(WORDS[i] for i in ids)),
)
