"""The command line that table1.py, table2.py, table3.py and figure3.py share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from mdlm_mcd.checkpoints.files import expanded
from mdlm_mcd.errors import MCDError

from . import check, dry
from .chain import TRAIN, Chain, Setting
from .cost import A100, Hardware
from .experiments import Table, table
from .stages import start


def parser(of: Table) -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog=f"{of.name}.py",
        description=f"{of.title}, as in arXiv 2602.00792: distils {', '.join(of.runs)}, sweeps "
        "over sampling steps, writes results.jsonl, report.html and table.md to "
        f"OUT/{of.name}. The same command goes on where it stopped; trainings in OUT/runs are "
        "shared with the other tables. See docs/paper_setting.md.",
    )
    known = ", ".join((*of.runs, *of.optional))

    def add(group, name, help, **how):
        group.add_argument(name, help=help, **how)

    add(
        p,
        "overrides",
        "of Hydra, for every training: loader.batch_size=16",
        nargs="*",
        metavar="OVERRIDE",
    )
    add(p, "--out", "where everything goes", type=Path, metavar="DIR")
    group = p.add_argument_group("what is distilled")
    takes = f"what algo.teacher_path takes; {TRAIN}: with +recipe={of.teacher_recipe}"
    add(group, "--teacher", takes, metavar="CKPT")
    add(group, "--duo-teacher", "the uniform-state model that dcd starts from", metavar="CKPT")
    add(group, "--methods", f"of {known}; default: {','.join(of.runs)}", metavar="NAME,NAME")
    group = p.add_argument_group("where things are")
    clone = "a clone of Duo or MDLM; default: the embedded host"
    add(group, "--host", clone, type=Path, metavar="DIR")
    add(group, "--cache", "data.cache_dir", metavar="DIR")
    files = dict(nargs="+", default=[], metavar="FILE")
    add(group, "--data", "text in place of OpenWebText (embedded host)", **files)
    add(group, "--held-out", "text that no model has seen, for the bounds", **files)
    add(group, "--device", "of sampling", default="cuda")
    add(group, "--devices", "of training", type=int, default=2)
    group = p.add_argument_group("measuring")
    add(group, "--evaluator", f"default: {of.evaluator}", metavar="NAME_OR_DIR")
    add(group, "--num-samples", "of each point; the paper does not say", type=int, default=1024)
    add(group, "--bound-rows", "held-out rows", type=int, default=256)
    add(group, "--batch-size", "of sampling", type=int, default=32)
    add(group, "--seed", "of training and sampling", type=int, default=1)
    group = p.add_argument_group("instead of running it")
    counts = "compose every config, count parameters and FLOPs"
    add(group, "--dry-run", counts, action="store_true")
    add(group, "--mfu", "assumed by --dry-run", type=float, default=0.4)
    add(group, "--peak", "FLOP/s of a device", type=float, default=A100)
    tiny = "the whole chain, tiny, with teachers and evaluator of its own, on a CPU"
    add(group, "--smoke", tiny, action="store_true")
    return p


def setting(args: argparse.Namespace) -> Setting:
    """Return what the flags say, with absolute paths: trainings run in folders of their own."""
    given = {field.name: getattr(args, field.name) for field in fields(Setting)}
    for name in ("teacher", "duo_teacher", "evaluator"):
        path = absolute(given[name])  # a name on the Hub stays one
        given[name] = path if path and Path(path).exists() else given[name]
    found = Setting(
        **given
        | {
            "host": args.host and args.host.resolve(),
            "cache": absolute(args.cache),
            "data": tuple(map(absolute, args.data)),
            "held_out": tuple(args.held_out),
            "overrides": tuple(args.overrides),
        }
    )
    return found.tiny() if args.smoke else found


def absolute(path: str | None) -> str | None:
    return path and str(Path(expanded(path, "path")).absolute())


def main(name: str, argv: Sequence[str] | None = None, start=start) -> int:
    """Run one table; 0: done, 1: refused in a sentence, 130: interrupted."""
    try:
        of = table(name)
        args = parser(of).parse_args(argv)
        of, given = of.chosen(args.methods), setting(args)
        if args.dry_run:
            print(dry.text(of, given, Hardware(args.devices, args.peak, args.mfu)))
            return 0
        check.ready(of, given)
        print(Chain(of, given, start=start).run())
    except MCDError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; the same command goes on.", file=sys.stderr)
        return 130
    return 0
