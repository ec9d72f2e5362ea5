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


def _export(args) -> None:
    from .hosts import export

    told = {
        "model_length": args.length,
        "n_heads": args.heads,
        "time_conditioning": args.time_conditioning,
    }
    said = export.export(
        args.checkpoint,
        args.out,
        which=args.weights,
        tokenizer=args.tokenizer,
        overwrite=args.overwrite,
        given={k: v for k, v in told.items() if v is not None},
    )
    print(said)


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

    export = commands.add_parser(
        "export",
        help="write a checkpoint as a Hugging Face folder",
        description="Writes model.safetensors, config.json, the code that opens them "
        "and a model card. transformers.AutoModelForMaskedLM opens the folder without "
        "this package, and so do MDLM, Duo (backbone=hf_dit) and algo.teacher_path.",
    )
    export.add_argument("checkpoint", metavar="CKPT", help="what teacher_path takes")
    export.add_argument("out", metavar="OUT", help="the folder to write")
    export.add_argument("--weights", choices=("ema", "raw"), default="ema")
    export.add_argument(
        "--tokenizer",
        metavar="NAME_OR_PATH",
        help="goes along; bpe: the one the embedded host trained",
    )
    export.add_argument("--overwrite", action="store_true", help="replace an export")
    unsaid = export.add_argument_group("where the checkpoint does not say it")
    unsaid.add_argument("--length", type=int, metavar="N", help="tokens in a sequence")
    unsaid.add_argument("--heads", type=int, metavar="N", help="attention heads")
    unsaid.add_argument(
        "--time-conditioning", action=argparse.BooleanOptionalAction, default=None
    )
    export.set_defaults(call=_export)
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
