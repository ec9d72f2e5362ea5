"""The `mdlm-mcd` command."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import __version__
from .errors import MCDError


def _demo(args) -> None:
    from . import demo  # imports torch: not for `--help`

    demo.run(Path(args.out), seed=args.seed, recipe=demo.recipe(args.quick))


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="mdlm-mcd",
        description="Masked Consistency Distillation for masked diffusion language "
        "models.",
    )
    root.add_argument("--version", action="version", version=__version__)
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="train a teacher, distil it, compare them; about 15 minutes on 2 CPU "
        "cores",
        description="Trains a small masked diffusion model on English text out of "
        "Python itself, distils it with MCD over five rounds, and samples teacher and "
        "students at 4 to 128 steps. Leaves table.md, perplexity_vs_steps.png, "
        "samples.txt and results.json. Run it again to go on after an interruption.",
    )
    demo.add_argument("--out", required=True, metavar="DIR", help="where to write")
    demo.add_argument("--seed", type=int, default=1)
    demo.add_argument(
        "--quick",
        action="store_true",
        help="the same chain in about a minute; its figures mean nothing",
    )
    demo.set_defaults(call=_demo)
    return root


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0: done, 1: refused in a sentence, 130: interrupted."""
    args = parser().parse_args(argv)
    try:
        args.call(args)
    except MCDError as error:
        print(f"mdlm-mcd: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\nmdlm-mcd: interrupted; the same command goes on from here.",
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
