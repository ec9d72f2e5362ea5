"""The command line that table1.py, table2.py, table3.py and figure3.py share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from hydra.errors import HydraException

from mdlm_mcd.checkpoints.files import expanded
from mdlm_mcd.commands import stages
from mdlm_mcd.errors import ConfigError, MCDError

from . import cost
from .chain import TRAIN, Chain
from .experiments import TABLES, Table

# Models of its own in seconds, on a CPU.
TINY = dict(teacher=TRAIN, duo_teacher=TRAIN, evaluator=TRAIN, num_samples=2, bound_rows=2)
TINY |= dict(batch_size=2, device="cpu", devices=1, host=None, cache=None, data=[], held_out=[])


def parser(of: Table) -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog=f"{of.name}.py",
        description=f"{of.title}, as in arXiv 2602.00792: distils {', '.join(of.runs)}, sweeps "
        "over sampling steps, writes results.jsonl, report.html and table.md to "
        f"OUT/{of.name}. The same command goes on where it stopped; trainings in OUT/runs are "
        "shared with the other tables. See docs/paper_setting.md.",
    )
    add = p.add_argument
    text = "of Hydra, for every training: loader.batch_size=16"
    add("overrides", nargs="*", metavar="OVERRIDE", help=text)
    add("--out", type=Path, metavar="DIR", help="where everything goes")
    text = f"what algo.teacher_path takes; {TRAIN}: with +recipe={of.teacher_recipe}"
    add("--teacher", metavar="CKPT", help=text)
    add("--duo-teacher", metavar="CKPT", help="the uniform-state model that dcd starts from")
    text = f"of {', '.join((*of.runs, *of.optional))}; default: {','.join(of.runs)}"
    add("--methods", metavar="NAME,NAME", help=text)
    add("--host", type=Path, metavar="DIR", help="a clone; default: the embedded host")
    add("--cache", metavar="DIR", help="data.cache_dir")
    files = dict(nargs="+", default=[], metavar="FILE")
    add("--data", help="text in place of OpenWebText (embedded host)", **files)
    add("--held-out", help="text that no model has seen, for the bounds", **files)
    add("--device", help="of sampling", default="cuda")
    add("--devices", help="of training", type=int, default=2)
    text = f"a name on the Hub or a folder; default: {of.evaluator}"
    add("--evaluator", default=of.evaluator, help=text)
    add("--num-samples", type=int, default=1024, help="of each point; the paper does not say")
    add("--bound-rows", type=int, default=256, help="held-out rows")
    add("--batch-size", type=int, default=32, help="of sampling")
    add("--seed", type=int, default=1, help="of training and sampling")
    text = "instead: compose every config, count parameters and FLOPs"
    add("--dry-run", action="store_true", help=text)
    text = "the whole chain, tiny, with teachers and evaluator of its own, on a CPU"
    add("--smoke", action="store_true", help=text)
    return p


def parsed(of: Table, argv=None) -> argparse.Namespace:
    """Return the flags, with absolute paths: trainings run in folders of their own."""
    given = parser(of).parse_args(argv)

    def absolute(path: str) -> str:
        return str(Path(expanded(path, "path")).absolute())

    for name in ("teacher", "duo_teacher", "evaluator"):
        path = getattr(given, name)
        if path and Path(absolute(path)).exists():  # a name on the Hub stays one
            setattr(given, name, absolute(path))
    given.host = given.host and given.host.resolve()
    given.cache = given.cache and absolute(given.cache)
    given.data = [*map(absolute, given.data)]
    if given.smoke:
        vars(given).update(TINY)
    return given


def problems(of: Table, given: argparse.Namespace) -> Iterator[str]:
    """Yield what would stop a table hours after its start, a sentence each."""
    needed = {"out": given.out}
    if not given.smoke:
        needed |= {"teacher": given.teacher, "held-out": given.held_out or given.data}
        if any(run.method.uniform for run in of.trained):
            needed["duo-teacher"] = given.duo_teacher
        if given.host:
            needed["cache"] = given.cache
    for flag, value in needed.items():
        if not value:
            yield f"--{flag} is missing: docs/paper_setting.md says what it takes."
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        yield (
            f"--device {given.device}: no CUDA device is there, and at this size a CPU would take "
            "years; --dry-run counts, --smoke tries the chain."
        )
    if given.evaluator != TRAIN:
        yield from unreachable(given.evaluator)


def unreachable(evaluator: str) -> Iterator[str]:
    """Fetch config and tokenizer, a few megabytes: who has them may have the rest."""
    import transformers

    try:
        transformers.AutoConfig.from_pretrained(evaluator)
        transformers.AutoTokenizer.from_pretrained(evaluator)
    except (OSError, ValueError, KeyError, ImportError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        yield (
            f"--evaluator {evaluator} is not reachable ({why}): accept its licence on the Hub and "
            "log in where it has one, or name a local folder with the model and its tokenizer."
        )


def main(name: str, argv=None, run=stages.run) -> int:
    """Run one table; 0: done, 1: refused in a sentence, 130: interrupted."""
    try:
        given = parsed(TABLES[name], argv)
        of = TABLES[name].chosen(given.methods)
        if given.dry_run:
            print(cost.text(of, given))
            return 0
        for sentence in problems(of, given):
            raise ConfigError(sentence)
        print(Chain(of, given, run=run).run())
    except (MCDError, HydraException) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; the same command goes on.", file=sys.stderr)
        return 130
    return 0
