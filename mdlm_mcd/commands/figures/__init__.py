"""`mdlm-mcd figures`: the paper's pictures, drawn by the functions they are about.

`data` computes numbers, `stills` and `animation` draw them, `language` is the model that
is drawn where none is named, `captions` has the words. docs/figures.md shows what comes
out.
"""

from __future__ import annotations

from pathlib import Path

from ...checkpoints import sanitize
from ...checkpoints.files import check_overwrite, make_folder
from ...errors import ConfigError
from ...evaluation import candidates
from .. import folder
from . import style
from .captions import LENGTH, Picture, pictures

__all__ = ["LENGTH", "NAMES", "Picture", "check_out", "pictures", "write"]

DRAWN = ("latent_paths", "regimes", "calibration", "trajectory")
NAMES = (
    *(f"{name}.{kind}" for name in DRAWN for kind in ("svg", "png")),
    "trajectory_animated.svg",
    "index.html",
)
"""The files of a folder of pictures, each with `style.MARK` in it."""


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
    parser.add_argument("--weights", choices=("ema", "raw"), help="default: ema")
    parser.add_argument("--tokenizer", metavar="NAME_OR_PATH")
    parser.add_argument("--seed", type=int, default=10, help="of the latent")
    parser.set_defaults(call=call)


def call(args) -> None:
    style.require_matplotlib()  # before a model is opened, not after it
    out, model = folder(args.out), None
    check_out(out)
    if args.model is not None:
        source = candidates.Source.parse(
            args.model, which=args.weights or "ema", tokenizer=args.tokenizer
        )
        model = candidates.open_model(source)
    elif args.weights or args.tokenizer:
        flag = "--weights" if args.weights else "--tokenizer"
        raise ConfigError(f"{flag} is a checkpoint's: name it with --model.")
    files = write(out, model, args.seed)
    print(f"Wrote {len(files)} files to {args.out}. Now: open {files[-1]}")


def _foreign(path: Path) -> str:
    ours = style.MARK.encode() in sanitize.read_bytes(path)
    return "" if ours else f"it is none of `{style.MARK}`"


def check_out(out: Path) -> None:
    """Raise ConfigError rather than replace files in `out` that are no pictures of ours."""
    for name in NAMES:
        check_overwrite(f"--out {out / name}", out / name, _foreign)


def write(out: Path, model=None, seed: int = 10) -> list[Path]:
    """Draw all pictures into the folder `out`: SVG and PNG, and index.html around them.

    model: a Candidate. The same bytes in every run on one version of matplotlib. Returns
    the files. Raises ConfigError without matplotlib, where `out` is no folder that can be
    written, and where it has a file of such a name that is none of ours.
    """
    style.require_matplotlib()
    make_folder(out)
    check_out(out)
    drawn = pictures(model, seed)
    files: list[Path] = []
    try:
        with style.look():
            for picture in drawn:
                files += _save(picture, out)
        files.append(out / "index.html")
        page = style.render("index.html", pictures=drawn, mark=style.MARK)
        files[-1].write_text(page + "\n", "utf-8", newline="\n")
    except OSError as error:
        raise ConfigError(
            f"--out {out} cannot be written ({error.strerror}): name a folder that can."
        ) from error
    return files


def _save(picture: Picture, out: Path) -> list[Path]:
    drawn = picture.draw()
    if not isinstance(drawn, str):
        return style.save(drawn, out, picture.name, picture.title, picture.alt)
    path = out / f"{picture.name}.svg"
    path.write_text(drawn + "\n", "utf-8", newline="\n")
    return [path]
