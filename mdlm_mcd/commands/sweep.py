"""`mdlm-mcd sweep`: checkpoints of any host over a grid of steps and temperatures."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from .. import __version__
from ..errors import ConfigError, first_line
from ..evaluation import candidates, embedded
from ..evaluation.candidates import Candidate
from ..evaluation.evaluators import CallableEvaluator, CausalLM, Evaluator
from ..evaluation.plan import Plan, grid
from ..evaluation.sweep import Sweep
from . import git, installed

PACKAGES = ("torch", "lightning", "hydra-core", "transformers", "tokenizers", "numpy")
# Rows of held-out text: for the corpus's own figures as many as there are samples,
# twice, since one half of it is compared with the other.
MOST_ROWS = 4096


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
        help="a causal LM of transformers (NAME:bfloat16, NAME:tf32: less exact, faster on "
        "CUDA), or a .ckpt of the embedded host's AR model",
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
    rows = sweep(sources, plan, Path(args.out), **how)
    print(f"{len(rows)} rows in {args.out}. Now: mdlm-mcd report {args.out}")


def versions() -> dict[str, str]:
    found = {"mdlm-mcd": __version__, "python": platform.python_version()}
    return found | {name: text for name in PACKAGES if (text := installed(name))}


def machine(device: str) -> dict[str, Any]:
    kind = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": kind,
    }


def evaluator_name(name: str) -> str:
    """Return what rows call the evaluator that `--evaluator` names; none is opened."""
    if not name.endswith(".ckpt"):
        return name
    path = Path(name)
    return f"{path.parent.parent.name or 'AR'}/{path.stem} (minihost AR)"


def load_evaluator(name: str, device: str, batch_size: int):
    """Open a `CausalLM`, without the samples' tokenizer, or the embedded host's."""
    if not name.endswith(".ckpt"):
        return CausalLM.load(name, device=device, batch_size=batch_size)
    return embedded.open_model(name)[0].to(device)


def evaluator(
    name: str, device: str, batch_size: int, model: Candidate, load=load_evaluator
) -> Evaluator:
    """Return the evaluator for one model's samples.

    name: a checkpoint of the embedded host's AR model, or a causal language model of
    transformers, for which samples are decoded and encoded again. load: opens it; a
    cached one serves many models. Raises ConfigError.
    """
    judge = load(name, device, batch_size)
    if isinstance(judge, CausalLM):
        return judge.reading(model.tokenizer)
    if judge.config.algo.parameterization != "ar":
        raise ConfigError(
            f"--evaluator {name} is a model of parameterization="
            f"{judge.config.algo.parameterization}, which gives no text a likelihood "
            "from left to right: name one trained with algo=ar, or one of transformers."
        )
    vocabularies = [
        {index: token for token, index in of.get_vocab().items() if index != mask}
        for of, mask in ((judge.tokenizer, judge.mask_index), (model.tokenizer, model.mask_index))
    ]
    if judge.vocab_size != model.vocab_size or vocabularies[0] != vocabularies[1]:
        raise ConfigError(
            f"--evaluator {name} has a vocabulary of {judge.vocab_size}, and the model "
            f"{model.label} another of {model.vocab_size}: use an evaluator trained on "
            "the same tokenizer, or one of transformers."
        )
    if judge.config.model.length < model.length:
        raise ConfigError(
            f"--evaluator {name} was trained on {judge.config.model.length} tokens, "
            f"and the samples of {model.label} have {model.length}: use one trained on "
            "that length."
        )
    return CallableEvaluator(embedded.judge(judge), evaluator_name(name), batch_size=batch_size)


def held_out(
    source: candidates.Source, most: int, files: Sequence[str]
) -> Callable[[Candidate], Tensor]:
    """Return `candidates.held_out`, read once for each tokenizer and length of many models."""
    texts: dict[tuple, Tensor] = {}

    def text(model: Candidate) -> Tensor:
        tokenizer = model.tokenizer
        fast = getattr(tokenizer, "backend_tokenizer", None)
        # A slow one does not tell all that it does: it is itself alone.
        same = fast and (fast.to_str(), str(tokenizer.special_tokens_map))
        key = (same or tokenizer, model.length, model.vocab_size, model.mask_index)
        if key not in texts:
            texts[key] = candidates.held_out(source, model, most, files)
        return texts[key]

    return text


def measure(
    sources: Sequence[candidates.Source],
    plan: Plan,
    out: Path,
    *,
    judge: str,
    corpus: Sequence[str] = (),
    device: str = "cpu",
    host: str | None = None,
    rows: int | None = None,
    **how,
) -> list[dict[str, Any]]:
    """Measure every source at every point of a plan and return the rows.

    corpus: files of held-out text; without any, the first source's own validation
    split. rows: of that text. host: a clone, whose commit is noted. how: on_point and
    noise of `Sweep`. Raises ConfigError, CheckpointError.
    """
    labels = [source.label for source in sources]
    if twice := {x for x in labels if labels.count(x) > 1}:
        raise ConfigError(
            f"Two checkpoints are called {sorted(twice)[0]!r}: tell them apart with LABEL=CKPT."
        )
    try:
        # Samples are drawn in it, and Apple's GPUs do not know it.
        torch.zeros(1, dtype=torch.float64, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ConfigError(
            f"--device {device} cannot be used ({first_line(error)}); use cpu."
        ) from error
    if host is not None and not Path(host).is_dir():
        raise ConfigError(f"--host {host} is no folder: name a clone, or leave it out.")
    rows = rows or min(max(2 * plan.num_samples, plan.bound_rows), MOST_ROWS)
    return Sweep(
        plan,
        out,
        evaluator=partial(
            evaluator, judge, device, min(plan.batch_size, 16), load=cache(load_evaluator)
        ),
        evaluator_name=evaluator_name(judge),
        held_out=held_out(sources[0], rows, corpus),
        facts={
            "versions": versions(),
            "machine": machine(device),
            "commit": host and git(host, "rev-parse", "HEAD") or None,
        },
        **how,
    ).run([partial(candidates.open_model, source, device) for source in sources])


def bars(console: Console | None, width: int) -> Progress:
    """Return bars with a description of that width, the time spent and the time left."""
    return Progress(
        TextColumn(f"{{task.description:<{width}}}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console or Console(stderr=True),
    )


def sweep(sources, plan: Plan, out: Path, *, console: Console | None = None, **how):
    """`measure`, with its progress on the console."""
    with bars(console, 34) as progress:
        task = progress.add_task("opening", total=None)

        def on_point(done: float, total: float, what: str) -> None:
            progress.update(task, completed=done, total=total, description=what)

        return measure(sources, plan, out, on_point=on_point, **how)
