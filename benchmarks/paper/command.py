"""The command line that table1.py, table2.py, table3.py and figure3.py share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
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
        description=f"{of.title}, as in arXiv 2602.00792: distils "
        f"{', '.join(of.runs)}, sweeps over sampling steps, writes results.jsonl, "
        f"report.html and table.md to OUT/{of.name}. The same command goes on where it "
        "stopped; trainings in OUT/runs are shared with the other tables. See "
        "docs/paper_setting.md.",
    )
    p.add_argument(
        "overrides",
        nargs="*",
        metavar="OVERRIDE",
        help="of Hydra, for every training: loader.batch_size=16",
    )
    p.add_argument("--out", type=Path, metavar="DIR", help="where everything goes")
    models = p.add_argument_group("what is distilled")
    models.add_argument(
        "--teacher",
        metavar="CKPT",
        help=f"what algo.teacher_path takes; {TRAIN}: with +recipe={of.teacher_recipe}",
    )
    models.add_argument(
        "--duo-teacher", metavar="CKPT", help="the uniform-state model that dcd starts from"
    )
    models.add_argument(
        "--methods",
        metavar="NAME,NAME",
        help=f"of {', '.join((*of.runs, *of.optional))}; default: {','.join(of.runs)}",
    )
    places = p.add_argument_group("where things are")
    places.add_argument(
        "--host",
        type=Path,
        metavar="DIR",
        help="a clone of Duo or MDLM; default: the embedded host",
    )
    places.add_argument("--cache", metavar="DIR", help="data.cache_dir")
    places.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="FILE",
        help="text in place of OpenWebText (embedded host)",
    )
    places.add_argument(
        "--held-out",
        nargs="+",
        default=[],
        metavar="FILE",
        help="text that no model has seen, for the bounds",
    )
    places.add_argument("--device", default="cuda", help="of sampling")
    places.add_argument("--devices", type=int, default=2, help="of training")
    measure = p.add_argument_group("measuring")
    measure.add_argument("--evaluator", metavar="NAME_OR_DIR", help=f"default: {of.evaluator}")
    measure.add_argument(
        "--num-samples", type=int, default=1024, help="of each point; the paper does not say"
    )
    measure.add_argument("--bound-rows", type=int, default=256, help="held-out rows")
    measure.add_argument("--batch-size", type=int, default=32)
    measure.add_argument("--seed", type=int, default=1)
    only = p.add_argument_group("instead of running it")
    only.add_argument(
        "--dry-run", action="store_true", help="compose every config, count parameters and FLOPs"
    )
    only.add_argument("--mfu", type=float, default=0.4, help="assumed by --dry-run")
    only.add_argument("--peak", type=float, default=A100, help="FLOP/s of a device")
    only.add_argument(
        "--smoke",
        action="store_true",
        help="the whole chain, tiny, with teachers and evaluator of its own, on a CPU",
    )
    return p


def setting(args: argparse.Namespace) -> Setting:
    """What the flags say."""
    overrides = tuple(args.overrides)
    if args.smoke:
        return Setting.tiny(args.out, seed=args.seed, overrides=overrides)
    return Setting(
        args.out,
        there(args.teacher),
        there(args.duo_teacher),
        args.host and args.host.resolve(),
        absolute(args.cache),
        tuple(map(absolute, args.data)),
        tuple(args.held_out),
        there(args.evaluator),
        args.num_samples,
        args.bound_rows,
        args.batch_size,
        args.device,
        args.devices,
        args.seed,
        overrides=overrides,
    )


def absolute(path: str | None) -> str | None:
    """Runs have folders of their own; a glob stays one."""
    return path and str(Path(expanded(path, "path")).absolute())


def there(name: str | None) -> str | None:
    """The absolute path of what is on the disk; a name on the Hub stays one."""
    path = absolute(name)
    return path if path and Path(path).exists() else name


def main(name: str, argv: Sequence[str] | None = None, start=start) -> int:
    """Run one table; 0: done, 1: refused in a sentence, 130: interrupted."""
    try:
        of = table(name)
        args = parser(of).parse_args(argv)
        of = of.chosen(args.methods)
        if args.dry_run:
            hardware = Hardware(args.devices, args.peak, args.mfu)
            print(dry.text(of, setting(args), hardware))
            return 0
        told = setting(args)
        check.ready(of, told)
        print(Chain(of, told, start=start).run())
    except MCDError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; the same command goes on.", file=sys.stderr)
        return 130
    return 0
