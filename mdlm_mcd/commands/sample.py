"""`mdlm-mcd sample`: print samples of a checkpoint, after a prompt or in gaps."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import torch
from rich.console import Console

from .. import sampling
from ..errors import ConfigError, border, require
from ..evaluation import candidates
from ..evaluation.diversity import sample_entropy
from ..evaluation.plan import DTYPES, Plan, Setting
from ..evaluation.sweep import draw
from ..models.vocabulary import check_ids
from ..settings.console import progress
from .sweep import LAWS, OPENED, check_device, law, sampling_arguments

GAP = re.compile(r"\[MASK:(\d+)\]")


def configure(parser) -> None:
    parser.description = (
        "Draws samples of a masked model and prints them. What a prompt or the text around "
        "gaps says is given: it never changes. Without one, rows are drawn from nothing."
    )
    add = parser.add_argument
    add("checkpoint", metavar="CKPT", help=OPENED)
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--prompt", metavar="TEXT", help="what the samples begin with")
    given.add_argument("--infill", metavar="TEXT", help="with gaps: 'A [MASK:12] of tokens'")
    given.add_argument("--file", metavar="FILE", help="of prompts, one a line")
    add("--count", type=int, default=1, help="samples of each prompt")
    add("--steps", type=int, default=8)
    add("--temperature", type=float, default=1.0)
    add("--sampler", default="sparse", help=", ".join(sampling.SAMPLERS))
    add("--u-law", type=law, default="iid", metavar="LAW[:STEP]", help=LAWS)
    add("--dtype", choices=list(DTYPES), default="float64", help="of the draws")
    sampling_arguments(parser)
    parser.epilog = "Example: mdlm-mcd sample mdlm-mcd/teacher --count 4 --steps 16"
    parser.set_defaults(call=call)


def starts(args, model: candidates.Candidate) -> list[list[int]]:
    """Return the first ids of each row, masks in gaps; none without a text. Raises ConfigError."""
    if args.infill is not None:
        start = encode(GAP.split(args.infill), model, "--infill")
        if model.mask_index not in start:
            raise ConfigError(
                f"--infill {args.infill} has no gap: write [MASK:12] where 12 tokens are missing."
            )
        return [start]
    if args.prompt is not None:
        return [encode([args.prompt], model, "--prompt")]
    if args.file is None:
        return [[]]
    with border(f"--file {args.file} cannot be read as UTF-8", "name a file of prompts"):
        lines = Path(args.file).read_text(encoding="utf-8-sig").split("\n")
    found = [encode([line], model, f"--file {args.file}") for line in lines if line.strip()]
    if not found:
        raise ConfigError(f"--file {args.file} has no line of text: write a prompt on each.")
    return found


def encode(pieces: list[str], model: candidates.Candidate, key: str) -> list[int]:
    """Return BOS and the ids of texts; between two of them a number of masks.

    Raises ConfigError where no row of the model has room for them.
    """
    tokenizer, ids = model.tokenizer, [model.tokenizer.bos_token_id]
    for index, piece in enumerate(pieces):
        if index % 2:
            ids += [model.mask_index] * min(int(piece), model.length)  # more is refused below
            continue
        part = tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]
        check_ids(torch.tensor(part), model.vocab_size, model.mask_index, key, tokenizer)
        ids += part
    if len(ids) + (len(pieces) == 1) > model.length:
        raise ConfigError(
            f"{key} has {len(ids)} tokens, BOS and gaps included, and a row of the model "
            f"{model.length}: give less text."
        )
    return ids


def text(row: list[int], start: list[int], gaps: bool, tokenizer) -> str:
    """Return a sample as text: without BOS, up to the end of the text with gaps, or an EOS."""
    if not start:
        return tokenizer.decode(row)
    end, eos = len(start), tokenizer.eos_token_id
    if not gaps:
        end = row.index(eos, end) if eos in row[end:] else len(row)
    return tokenizer.decode(row[1:end])


def call(args) -> None:
    for flag, number in (("--count", args.count), ("--batch-size", args.batch_size)):
        require(number >= 1, flag, number, "at least 1")
    check_device(args.device)
    keys = ("stratified", "steps", "temperature", "top_p", "dtype")
    point = Setting(args.sampler, *args.u_law, **{key: getattr(args, key) for key in keys})
    Plan((point,)).check()  # before a model is opened
    source = candidates.Source.parse(args.checkpoint, which=args.weights, tokenizer=args.tokenizer)
    with progress(Console(stderr=True), "opening") as update:
        model = candidates.open_model(source, args.device)
        rows = [start for start in starts(args, model) for _ in range(args.count)]
        prompt = torch.full((len(rows), model.length), model.mask_index)
        for row, start in zip(prompt, rows, strict=True):
            row[: len(start)] = torch.tensor(start)
        plan = Plan((point,), len(rows), args.batch_size, seed=args.seed)
        done, passes = itertools.count(1), args.steps * -(-len(rows) // args.batch_size)
        tokens, evaluations = draw(
            *(model, point, plan),
            prompt=prompt,
            # `first_hitting` opens a token a step, in as many steps as chance decides.
            callback=lambda step, z: update(n := next(done), max(n, passes), "sampling"),
        )
    tokens = tokens.cpu()
    drawn = [z[masked] for z, masked in zip(tokens, prompt == model.mask_index, strict=True)]
    entropy = torch.cat([sample_entropy(z[None]) for z in drawn]).mean()
    print(
        f"{len(rows)} samples of {source.label} by {args.sampler} in {evaluations} network passes, "
        f"drawn in {args.dtype}; entropy {entropy:.3f} nats over the drawn tokens of a sample."
    )
    for index, (row, start) in enumerate(zip(tokens.tolist(), rows, strict=True), 1):
        print(f"\n--- {index}\n{text(row, start, args.infill is not None, model.tokenizer)}")
