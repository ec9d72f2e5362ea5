"""Arguments of `mdlm-mcd sweep`."""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path


def configure(parser) -> None:
    parser.description = (
        "Draws samples of every checkpoint at every point of the grid and "
        "measures them: N-step NELBO, perplexity, entropy, diversity, with intervals. "
        "One line of JSON a point; the same command goes on where it stopped."
    )
    parser.add_argument(
        "checkpoint",
        nargs="+",
        metavar="[LABEL=]CKPT",
        help="of the embedded host, MDLM or Duo, an exported folder or a hub id",
    )
    parser.add_argument("--steps", type=numbers(int), default=[8, 16, 32], metavar="N,N")
    parser.add_argument("--temperature", type=numbers(float), default=[1.0], metavar="T,T")
    parser.add_argument("--sampler", default="sparse", metavar="NAME,NAME")
    parser.add_argument(
        "--u-law",
        type=law,
        nargs="+",
        default=[("iid", None)],
        metavar="LAW[:STEP]",
        help="joint law of the masks: iid, lattice, lattice:1/8, lattice:auto, halton",
    )
    parser.add_argument("--stratified", action="store_true", help="each step opens its exact share")
    parser.add_argument("--num-samples", type=int, default=1024)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--dtype", default="float64", help="of the draws")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--evaluator",
        default="gpt2-large",
        metavar="NAME_OR_CKPT",
        help="a causal LM of transformers, or a .ckpt of the embedded host's AR model",
    )
    parser.add_argument(
        "--corpus",
        nargs="+",
        default=[],
        metavar="FILE",
        help="held-out text; default: the first checkpoint's own, where it is found",
    )
    parser.add_argument("--out", default="results.jsonl", metavar="FILE")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema")
    parser.add_argument("--tokenizer", metavar="NAME_OR_PATH")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--bound-rows", type=int, default=256, help="held-out rows")
    parser.add_argument("--mauve", action="store_true", help="needs mdlm-mcd[mauve]")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--host", metavar="PATH", help="a clone, to note its commit")
    parser.set_defaults(call=call)


def numbers(kind):
    """Return a reader of numbers between commas."""

    def parse(text: str) -> list:
        if found := [kind(part) for part in text.split(",") if part.strip()]:
            return found
        raise ValueError

    parse.__name__ = f"list of {kind.__name__}s"  # for argparse's own message
    return parse


def law(text: str) -> tuple[str, float | str | None]:
    """Read `iid`, `lattice`, or with a step: `lattice:1/8`, `lattice:auto`."""
    name, _, step = text.partition(":")
    if not step or step == "auto":
        return name, step or None
    try:
        return name, float(Fraction(step))
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(
            f"{text}: the step {step} is no number such as 0.125 or 1/8"
        ) from error


def call(args) -> None:
    from ..evaluation import candidates
    from ..evaluation.plan import Plan, grid
    from . import sweep

    points = grid(
        args.steps,
        args.temperature,
        args.sampler.split(","),
        args.u_law,
        args.dtype.split(","),
        args.top_p,
        args.stratified,
    )
    plan = Plan(points, args.num_samples, args.batch_size, args.bound_rows, args.seed, args.mauve)
    plan.check()
    sources = [
        candidates.Source.parse(text, which=args.weights, tokenizer=args.tokenizer)
        for text in args.checkpoint
    ]
    how = dict(judge=args.evaluator, corpus=args.corpus, device=args.device, host=args.host)
    rows = sweep.sweep(sources, plan, Path(args.out), **how)
    print(f"{len(rows)} rows in {args.out}. Now: mdlm-mcd report {args.out}")
