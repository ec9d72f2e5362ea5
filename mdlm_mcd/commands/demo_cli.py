"""Arguments of `mdlm-mcd demo`."""

from __future__ import annotations

from . import folder


def configure(parser) -> None:
    parser.description = (
        "Trains a small masked diffusion model on English text out of "
        "Python itself, distils it with MCD over five rounds, and samples teacher and "
        "students at 4 to 128 steps. Leaves report.html, table.md, "
        "perplexity_vs_steps.png, samples.txt and results.json. Run it again to go on "
        "after an interruption."
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="the same chain in about a minute; its figures mean nothing",
    )
    parser.set_defaults(call=call)


def call(args) -> None:
    from . import demo

    demo.run(folder(args.out), seed=args.seed, recipe=demo.recipe(args.quick))
