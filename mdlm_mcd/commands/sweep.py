"""`mdlm-mcd sweep`: checkpoints of any host over a grid of steps and temperatures."""

from __future__ import annotations

import os
import platform
import re
import shlex
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from ..checkpoints.files import SHIPPED, expanded, sha256
from ..errors import ConfigError, border
from ..evaluation import candidates, embedded, evaluators
from ..evaluation.candidates import Candidate
from ..evaluation.plan import Plan, grid
from ..evaluation.sweep import Sweep
from ..settings.console import progress
from . import versions

# Rows of held-out text: for the corpus's own figures as many as there are samples,
# twice, since one half of it is compared with the other.
MOST_ROWS = 4096

COMMA = r",(?![^\[(]*[\])])"  # one that is not within a sampler's list of numbers

OPENED = "of the embedded host, MDLM or Duo, a folder or a hub id"
LAWS = "joint law of the masks: iid, halton, dilated, lattice, lattice:1/8"


def configure(parser) -> None:
    parser.description = (
        "Draws samples of every checkpoint at every point of the grid and "
        "measures them: N-step NELBO, perplexity, entropy, diversity, with intervals. "
        "One line of JSON a point; the same command goes on where it stopped."
    )
    add = parser.add_argument
    add("checkpoint", nargs="+", metavar="[LABEL=]CKPT", help=OPENED)
    add("--steps", type=numbers(int), default="8,16,32", metavar="N,N")
    add("--temperature", type=numbers(float), default="1.0", metavar="T,T")
    text = "e.g. sparse,confidence:spacing=8"
    add("--sampler", default="sparse", metavar="NAME,NAME", help=text)
    text = f"{LAWS}, lattice:auto; default: iid"
    add("--u-law", type=law, nargs="+", metavar="LAW[:STEP]", help=text)
    add("--num-samples", type=int, default=1024)
    add("--dtype", default="float64", help="of the draws")
    sampling_arguments(parser)
    text = "a causal LM of transformers (NAME:bfloat16, NAME:tf32: less exact, faster on CUDA), "
    text += "smollm2, a .gguf file, mdlm-mcd/judge, or a .ckpt of the embedded host's AR model"
    add("--evaluator", default="gpt2-large", metavar="NAME_OR_CKPT", help=text)
    text = "held-out text; without: the first checkpoint's own, where it is found"
    add("--corpus", nargs="+", default=[], metavar="FILE", help=text)
    add("--out", default="results.jsonl", metavar="FILE")
    add("--bound-rows", type=int, default=256, help="held-out rows for the bounds")
    add("--exact", action="store_true", help="-log p itself where u_law is lattice:1/STEPS")
    add("--mauve", action="store_true", help="needs mdlm-mcd[mauve]")
    parser.epilog = "Example: mdlm-mcd sweep mdlm-mcd/teacher --evaluator mdlm-mcd/judge"
    parser.set_defaults(call=call)


def sampling_arguments(parser) -> None:
    """Add what every command that draws samples of a checkpoint is given."""
    add = parser.add_argument
    add("--stratified", action="store_true", help="each step opens its exact share")
    add("--top-p", type=float, default=1.0)
    add("--seed", type=int, default=1)
    add("--weights", choices=("ema", "raw"), default="ema")
    add("--tokenizer", metavar="NAME_OR_PATH")
    add("--batch-size", type=int, default=64)
    add("--device", default="cpu")


def numbers(kind):
    """Return a reader of numbers between commas."""

    def parse(text: str) -> list:
        return [kind(part) for part in text.split(",")]

    parse.__name__ = f"list of {kind.__name__}s"  # for argparse's own message
    return parse


def law(text: str) -> tuple[str, float | str | None]:
    """Read `iid`, `lattice`, or with a step: `lattice:1/8`, `lattice:auto`."""
    name, _, step = text.partition(":")
    try:
        return name, (step or None) if step in ("", "auto") else float(Fraction(step))
    except ZeroDivisionError as error:
        raise ValueError(text) from error  # which argparse words


def call(args) -> None:
    samplers, dtypes = re.split(COMMA, args.sampler), args.dtype.split(",")
    laws = args.u_law or [law("iid")]
    how = (args.top_p, args.stratified)
    points = grid(args.steps, args.temperature, samplers, laws, dtypes, *how)
    keys = ("num_samples", "batch_size", "bound_rows", "seed", "mauve", "exact")
    plan = Plan(points, **{key: getattr(args, key) for key in keys})
    of = dict(which=args.weights, tokenizer=args.tokenizer)
    sources = [candidates.Source.parse(text, **of) for text in args.checkpoint]
    given = dict(judge=args.evaluator, corpus=args.corpus, device=args.device)
    out = expanded(args.out, "--out")  # of `--out=~/x` the shell leaves it
    rows = sweep(sources, plan, Path(out), **given)
    force = " --force" * (len({point.dtype for point in points}) > 1)
    print(f"{len(rows)} rows in {out}. Now: mdlm-mcd report{force} {shlex.quote(out)}")


def check_device(device: str) -> None:
    """Raise ConfigError for a device that is not there, or has no float64."""
    with border(f"--device {device} cannot be used", "use cpu"):
        # Samples are drawn in it, and Apple's GPUs do not know it.
        torch.zeros(1, dtype=torch.float64, device=device).item()


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
    """Return what rows call the evaluator that `--evaluator` names; none is opened.

    A name is a path's end, and what lies there may change, so a local one has a hash, too.
    """
    given, _ = evaluators.with_precision(name)
    path = Path(expanded(given, "--evaluator"))
    if name in SHIPPED or not (digest := sha256(path)):
        return evaluators.name_of(name)
    called = path.resolve().name + name[len(given) :]
    if embedded.is_embedded(name):
        called = f"{path.parent.parent.name or 'AR'}/{path.stem} (minihost AR)"
    return f"{called}, {digest[:8]}"


def load_evaluator(name: str, device: str, batch_size: int):
    """Open a `CausalLM`, without the samples' tokenizer, or the embedded host's."""
    if embedded.is_embedded(name):
        return embedded.open_judge(name, device)
    return evaluators.CausalLM.load(name, device=device, batch_size=batch_size)


def evaluator(
    name: str, device: str, batch_size: int, model: Candidate, load=load_evaluator
) -> evaluators.Evaluator:
    """Return the evaluator for one model's samples.

    name: as of `--evaluator`. load: opens it; a cached one serves many models. Raises ConfigError.
    """
    judge = load(name, device, batch_size)
    if isinstance(judge, evaluators.CausalLM):
        return judge.reading(model.tokenizer)

    def vocabulary(of):
        tokens = {i: token for token, i in of.tokenizer.get_vocab().items() if i != of.mask_index}
        return of.vocab_size, tokens

    for wrong, words in (
        (
            vocabulary(judge) != vocabulary(model),
            f"has a vocabulary of {judge.vocab_size}, and the model {model.label} another of "
            f"{model.vocab_size}: use an evaluator trained on the same tokenizer, or one of "
            "transformers",
        ),
        (
            judge.length < model.length,
            f"was trained on {judge.length} tokens, and the samples of {model.label} have "
            f"{model.length}: use one trained on that length",
        ),
    ):
        if wrong:
            raise ConfigError(f"--evaluator {name} {words}.")
    return evaluators.CallableEvaluator(judge.nll, evaluator_name(name), batch_size=batch_size)


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


def sweep(
    sources: Sequence[candidates.Source],
    plan: Plan,
    out: Path,
    *,
    judge: str,
    corpus: Sequence[str] = (),
    device: str = "cpu",
    rows: int | None = None,
    console: Console | None = None,
    **how,
) -> list[dict[str, Any]]:
    """Measure every source at every point of a plan, with a bar; return the rows.

    corpus: files of held-out text; without any, the first source's own validation
    split. rows: of that text. how: noise of `Sweep`. Raises ConfigError, CheckpointError.
    """
    labels = [source.label for source in sources]
    if twice := [x for x in labels if labels.count(x) > 1]:
        raise ConfigError(
            f"Two checkpoints are called {twice[0]!r}: tell them apart with LABEL=CKPT."
        )
    check_device(device)
    rows = rows or min(max(2 * plan.num_samples, plan.bound_rows), MOST_ROWS)
    judging = (judge, device, min(plan.batch_size, 16))
    with progress(console or Console(stderr=True), "opening") as on_point:
        return Sweep(
            plan,
            out,
            evaluator=partial(evaluator, *judging, load=cache(load_evaluator)),
            evaluator_name=evaluator_name(judge),
            held_out=held_out(sources[0], rows, corpus),
            facts={"versions": versions(), "machine": machine(device)},
            on_point=on_point,
            **how,
        ).run([partial(candidates.open_model, source, device) for source in sources])
