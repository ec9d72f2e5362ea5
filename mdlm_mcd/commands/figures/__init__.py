"""`mdlm-mcd figures`: the paper's pictures, drawn by the functions they are about.

`data` computes numbers, `draw` draws them. docs/figures.md shows what comes out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ...checkpoints import sanitize
from ...checkpoints.files import check_overwrite, make_folder
from ...evaluation import candidates
from .. import folder, require_matplotlib
from . import data, draw

STILLS = ("latent_paths", "regimes", "calibration", "trajectory")
NAMES = (*(f"{n}.{kind}" for n in STILLS for kind in ("svg", "png")), "trajectory_animated.svg")
"""The files of a folder of pictures, each with `draw.MARK` in it."""
LENGTH = 24
"""Tokens of a sentence of a model's, at most: as many as are read at a glance."""


def configure(parser) -> None:
    parser.description = (
        "Draws latent paths and their projection, the three cases of Eq. "
        "14, alpha_t against the signal-to-noise ratio, and one locked trajectory at "
        "8, 32 and 512 steps: of a checkpoint, or of a built-in language whose "
        "denoiser is exact. Needs mdlm-mcd[demo]."
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write")
    parser.add_argument(
        "--model", metavar="CKPT", help="whose trajectory; what mdlm-mcd sweep takes"
    )
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="of the model")
    parser.add_argument("--tokenizer", metavar="NAME_OR_PATH")
    parser.add_argument("--seed", type=int, default=10, help="of the latent")
    parser.set_defaults(call=call)


def call(args) -> None:
    require_matplotlib()  # before a model is opened, not after it
    out, model = folder(args.out), None
    check_out(out)
    if args.model is not None:
        how = dict(which=args.weights, tokenizer=args.tokenizer)
        model = candidates.open_model(candidates.Source.parse(args.model, **how))
    print(f"Wrote {len(write(out, pictures(model, args.seed)))} files to {args.out}.")


class Picture(NamedTuple):
    """alt: what it shows, for those who do not see it; draw(): a Figure, or an SVG as text."""

    name: str
    alt: str
    draw: Callable


def pictures(model: candidates.Candidate | None = None, seed: int = 10) -> list[Picture]:
    """Compute all pictures; nothing is drawn yet.

    model: whose trajectory; without one that of `data.LANGUAGE`. seed: of its Latent.
    """
    paths, cases = [data.latent_path(seed) for seed in (1, 0)], data.regimes()
    curves = [data.calibration(k) for k in data.VOCABULARIES]
    source = model or data.LANGUAGE
    shown = data.trajectories(source, min(source.length, LENGTH), seed)

    times = " and ".join(f"at t = {p.overtaken:.2f} for u = {p.u:.2f}" for p in paths)
    words = {
        case: ", ".join(w for w, c in zip(cases.words, cases.cases, strict=True) if c == case)
        for case in draw.CASES
    }
    half = ", ".join(
        f"{abs(c.ratio[(c.alpha_t - 0.5).abs().argmin()].item()):.1f} for K = {c.num_classes:,}"
        for c in curves
    )

    def described(run: data.Run) -> str:
        text = f"\u201c{' '.join(run.words)}\u201d in {run.steps} steps"
        unlike = f" ({sum(shown.differs(run)) or 'none'} of its words unlike the last)"
        return text if run is shown.runs[-1] else text + unlike

    alt = f"One sentence from one latent: {', '.join(map(described, shown.runs))}"
    if model:
        noted = model.provenance
        alt += f"; by {model.label} ({noted.get('checkpoint')}, weights of SHA-256 "
        alt += f"{str(noted.get('sha256'))[:12]}) from Latent({seed})"
    moving = f"{alt}, opening in turn."
    return [
        Picture(
            "latent_paths",
            "Two columns, one a draw of the noise. Above, the token's coordinate of the latent "
            "falls below its strongest rival among the others; in the middle, the projection "
            "changes from the word to the mask at that time; below, alpha_t falls below the "
            f"constant u at the same time, {times}.",
            lambda: draw.latent_paths(paths),
        ),
        Picture(
            "regimes",
            f"The sentence \u201c{' '.join(cases.words)}\u201d with a stem of height u on each "
            "word and two levels, alpha_s above alpha_t. Above both, masked for teacher and "
            f"student, KL: {words['KL']}. Between them, seen by the teacher alone, "
            f"cross-entropy: {words['CE']}. Below both, no loss: {words['none']}.",
            lambda: draw.regimes(cases),
        ),
        Picture(
            "calibration",
            "Left: alpha_t rises from 0 to 1 with the ratio of signal and noise, later for "
            f"larger vocabularies; it is one half near {half}. Right: the Gaussian coefficient "
            "over time, which for large vocabularies stays near 1 and falls only at the end.",
            lambda: draw.calibration(curves),
        ),
        Picture(
            "trajectory", f"{alt}; bars show when each opened.", lambda: draw.trajectory(shown)
        ),
        Picture("trajectory_animated", moving, lambda: draw.animation(shown, moving)),
    ]


def _foreign(path: Path) -> str:
    return "" if draw.MARK.encode() in sanitize.read_bytes(path) else f"it is none of `{draw.MARK}`"


def check_out(out: Path) -> None:
    """Raise ConfigError rather than replace files in `out` that are no pictures of ours."""
    for name in NAMES:
        check_overwrite(f"--out {out / name}", out / name, _foreign)


def write(out: Path, drawn: list[Picture]) -> list[Path]:
    """Draw pictures into the folder `out`, with their alt texts inside; return the files.

    The same bytes in every run on one version of matplotlib. Raises ConfigError where
    `out` is no folder or has a file of such a name that is not ours.
    """
    out, files = make_folder(out), []
    check_out(out)
    for name, alt, make in drawn:
        with draw.look():
            picture = make()
            files.append(out / f"{name}.svg")
            if isinstance(picture, str):
                files[-1].write_text(picture + "\n", "utf-8", newline="\n")
                continue
            facts = {"Date": None, "Creator": draw.MARK, "Description": alt}
            picture.savefig(files[-1], metadata=facts)
            files.append(out / f"{name}.png")
            facts = {"Software": draw.MARK, "Description": alt}
            picture.savefig(files[-1], dpi=160, metadata=facts)
    return files
