"""The pictures and their words: titles, captions, and texts for those who do not see them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import animation, data, language, stills

LENGTH = 24
"""Tokens of a sentence of a model's, at most: as many as are read at a glance."""


@dataclass(frozen=True)
class Picture:
    """A drawing and its words.

    draw: returns a matplotlib Figure, or an SVG as text; name: of its files; alt: what
    it shows, for those who do not see it; caption: how it came about.
    """

    name: str
    title: str
    alt: str
    caption: str
    draw: Callable


def pictures(model=None, seed: int = 10) -> list[Picture]:
    """Prepare all pictures; the trajectories are sampled here, nothing is drawn yet.

    model: a Candidate, whose trajectory is drawn; None: the exact `language`. seed: of its Latent.
    """
    paths, cases = data.latent_paths(), data.regimes()
    curves = data.calibrations()
    source = model or language.language()
    shown = data.trajectories(source, min(source.length, LENGTH), seed)
    return [
        Picture(
            "latent_paths",
            "A Gaussian path, its projection and the scalar that decides it",
            _latent_paths_alt(paths),
            "The paper's Figure 1: duality.latent along the DDIM path under "
            "duality.calibrate, its projection duality.project, and u = "
            f"duality.to_uniform, for K = {paths[0].w_t.shape[1]} and two draws of the "
            "noise. The circles above are where the projection changes, those below "
            "where alpha_t falls below u: the same times, by Theorem 3.3.",
            lambda: stills.latent_paths(paths),
        ),
        Picture(
            "regimes",
            "What Eq. 14 asks of each token",
            _regimes_alt(cases),
            "The paper's Figure 2: coupling.couple on a sentence, with one u drawn for "
            f"each token, at alpha_s = {cases.alpha_s:.2f} for the teacher and alpha_t "
            f"= {cases.alpha_t:.2f} for the student. In the paper's rounds they are at "
            "most 1/32 apart.",
            lambda: stills.regimes(cases),
        ),
        Picture(
            "calibration",
            "alpha_t against the signal-to-noise ratio",
            _calibration_alt(curves),
            "Lemma 3.1: NoiseGap(K).cdf on the left, duality.calibrate on the right, "
            "for K = " + ", ".join(f"{c.num_classes:,}" for c in curves) + "; the last "
            "is GPT-2's vocabulary and the mask. At a ratio of 0 noise alone shows a "
            "token 1/K of the time, so what is rarer takes a negative one.",
            lambda: stills.calibration(curves),
        ),
        *_trajectory(source, model is None, shown, seed),
    ]


def _latent_paths_alt(paths: list[data.LatentPath]) -> str:
    times = " and ".join(f"at t = {p.overtaken:.2f} for u = {p.u:.2f}" for p in paths)
    return (
        "Two columns, one a draw of the noise. Above, the token's coordinate of the "
        "latent falls below its strongest rival among the others; in the middle, the "
        "projection changes from the word to the mask at that time; below, alpha_t "
        f"falls below the constant u at the same time, {times}."
    )


def _regimes_alt(cases: data.Regimes) -> str:
    words = {
        case: ", ".join(w for w, c in zip(cases.words, cases.regimes, strict=True) if c == case)
        for case in data.REGIMES
    }
    return (
        f"The sentence \u201c{' '.join(cases.words)}\u201d with a stem of height u on "
        "each word and two levels, alpha_s above alpha_t. Above both, masked for "
        f"teacher and student, KL: {words['KL']}. Between them, seen by the teacher "
        f"alone, cross-entropy: {words['CE']}. Below both, no loss: {words['none']}."
    )


def _calibration_alt(curves: list[data.Calibration]) -> str:
    half = ", ".join(
        f"{abs(c.ratio[(c.alpha_t - 0.5).abs().argmin()].item()):.1f} for K = {c.num_classes:,}"
        for c in curves
    )
    return (
        "Left: alpha_t rises from 0 to 1 with the ratio of signal and noise, later for "
        f"larger vocabularies; it is one half near {half}. Right: the Gaussian "
        "coefficient over time, which for large vocabularies stays near 1 and falls "
        "only at the end."
    )


def _trajectory(source, built_in: bool, shown: data.Trajectories, seed: int):
    steps = [str(run.steps) for run in shown.runs]
    title = (
        "One latent, three clocks: the same u and the same noise at "
        f"{', '.join(steps[:-1])} and {steps[-1]} steps"
    )
    alt = "One sentence from one latent: " + ", ".join(
        f"\u201c{' '.join(run.words)}\u201d in {run.steps} steps"
        + f" ({int(shown.differs(run).sum()) or 'none'} of its words unlike the last)"
        * (run is not shown.runs[-1])
        for run in shown.runs
    )
    still, moving = f"{alt}; bars show when each opened.", f"{alt}, opening in turn."
    of = _of_the_language(seed) if built_in else _of_a_model(source, shown, seed)
    how = (
        "Sampled by locked in equal shares a step, in float64. A word opens in the "
        "first step that ends above its u, so all runs open the words in one order; "
        "words that open in the same step are drawn without knowing of one another. "
    )
    return (
        Picture("trajectory", title, still, how + of, lambda: stills.trajectory(shown)),
        Picture(
            "trajectory_animated",
            title,
            moving,
            how + of,
            lambda: animation.trajectory(shown, title, moving),
        ),
    )


def _of_the_language(seed: int) -> str:
    found = language.shares()
    return (
        f"No trained model: {len(language.SENTENCES)} sentences of {language.LENGTH} "
        f"words, equally likely, a word misprinted with probability "
        f"{language.MISPRINT:g}. Its p(x0 | z_t) is exact, so what goes wrong is the "
        f"sampler's. Latent({seed}) is an example; of {language.BATCH} sequences "
        + ", ".join(f"{p:.0%} at {n}" for n, p in found.items())
        + " steps are one of the sentences, word for word."
    )


def _of_a_model(model, shown: data.Trajectories, seed: int) -> str:
    noted, count = model.provenance, len(shown.u)
    short = f", where it was trained on {model.length}" * (count < model.length)
    return (
        f"{count} tokens{short}, by {model.label} ({noted.get('checkpoint')}, SHA-256 "
        f"of its weights {str(noted.get('sha256'))[:12]}), from Latent({seed}). A dot "
        "begins a new word."
    )
