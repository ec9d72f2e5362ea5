"""The command line of `benchmarks/quality.py`, and where its figures lie."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from functools import partial
from pathlib import Path

from mdlm_mcd.checkpoints.files import check_overwrite, make_folder, read_json, write_text
from mdlm_mcd.errors import ConfigError, MCDError
from mdlm_mcd.evaluation import report
from mdlm_mcd.evaluation.rows import existing

from . import jobs, methods, page, schedule
from .setting import SETTINGS
from .sizes import SIZES
from .verdict import Figures

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("mdlm_mcd/**/*.py", "mdlm_mcd/**/*.yaml", "configs/**/*.yaml", "benchmarks/bench/*.py")
READERS = ("main.py", "page.py", "schedule.py", "verdict.py")  # of figures that stand


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="quality.py", description="MCD beside its baselines and controls."
    )
    add = made.add_argument
    add("--quick", action="store_true", help="a part of it, in at most 10 minutes")
    add("--size", choices=sorted(SIZES), help=argparse.SUPPRESS)
    add("--jobs", type=int, default=2, help="worker processes, one thread each")
    add("--out", type=Path, default=Path("bench-quality"), help="folder of figures")
    add("--part", action="append", choices=sorted(SETTINGS), help="only this")
    add("--method", action="append", help="only this method, and the teachers")
    add("--seeds", type=int, help="at most so many seeds a method")
    add(
        "--docs",
        type=Path,
        help="write the results there, too (docs/results.md where nothing is left out)",
    )
    add("--table-only", action="store_true", help="no measuring, only tables")
    add("--plan", action="store_true", help="only say what would be done, and its time")
    return made


def code_version(root: Path = ROOT) -> str:
    """12 hex digits over all sources that figures could depend on, and their names."""
    digest = hashlib.sha256()
    for path in sorted({p for pattern in SOURCES for p in root.glob(pattern)}):
        if path.parent.name != "bench" or path.name not in READERS:
            digest.update(str(path.relative_to(root).as_posix()).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def read(folder: Path) -> Figures:
    """Return the rows that a part's jobs wrote, and why others stopped."""
    rows = [row for path in sorted(folder.glob("*.jsonl")) for row in existing(path)]
    stopped = [read_json(path, {}) for path in sorted(folder.glob("*.stopped"))]
    return Figures(rows, {found["method"]: found["why"] for found in stopped if found})


def write(folder: Path, size: str, docs: Path | None, say) -> None:
    """Write a report for each part and the page, from the rows in `folder`."""
    parts = {name: figures for name in SIZES[size] if (figures := read(folder / name)).rows}
    written = []
    for name, figures in parts.items():
        rows, out = folder / f"{name}.jsonl", folder / f"{name}.html"
        write_text(rows, "".join(json.dumps(row) + "\n" for row in page.means(figures)))
        report.write([rows], out, reference=methods.TEACHER, title=page.TITLES[name])
        written += [rows, out]
        say("\n".join(["", f"{page.TITLES[name]}:", *page.headline(name, figures)]))
    text = page.page(size, parts, folder.name.partition("-")[0])
    for path in filter(None, (folder / "results.md", docs)):
        write_text(path, text)
        written.append(path)
    say("Wrote " + ", ".join(map(str, written)) + ".")


def foreign(path: Path) -> str:
    """Return why a file is no page of this benchmark; empty where it is one."""
    return "" if page.MARK.encode() in path.read_bytes() else "it is no page of this benchmark"


def run(args, say=print) -> Path:
    """Run the benchmark; return the folder of its figures."""
    for flag in ("seeds", "jobs"):
        if (number := getattr(args, flag)) is not None and number < 1:
            raise ConfigError(f"--{flag} {number} must be at least 1.")
    size = args.size or ("quick" if args.quick else "full")
    parts = [name for name in SETTINGS if name in (args.part or SETTINGS)]
    todo = jobs.plan(methods.named(args.method, size != "full"), parts, size, args.seeds)
    costs = {job: job.cost(SIZES[size][job.part]) for job in todo}
    total = sum(costs.values())
    say(
        f"{len(todo)} jobs, about {total / args.jobs / 60:.0f} min with {args.jobs} processes "
        "on as many free cores; the same command goes on after an interruption."
    )
    if args.plan:
        for part in parts:
            spent = sum(c for job, c in costs.items() if job.part == part)
            say(f"  {part}: {spent / 60:.1f} core minutes")
        return args.out
    name = f"{code_version()}-{size}"
    if args.table_only and not any((args.out / name).glob("*/*.jsonl")):
        raise ConfigError(
            f"--table-only finds no figures of this code ({name}) in --out "
            f"{args.out}: leave it out, to measure."
        )
    whole = size == "full" and not (args.part or args.method or args.seeds)
    docs = args.docs or (ROOT / "docs" / "results.md" if whole else None)
    if docs is not None:
        check_overwrite(f"--docs {docs}", docs, foreign)
    folder = make_folder(make_folder(args.out) / name)
    if others := sorted({p.parent.parent.name for p in args.out.glob("*/*/*.jsonl")} - {name}):
        say(
            f"{args.out} also holds figures of other code or settings ({', '.join(others)}), "
            f"which stay as they are; these go to {name}."
        )
    start, done = time.time(), []

    def on_done(job, seconds):
        done.append(job)
        say(
            f"[{len(done)}/{len(todo)}, {sum(map(costs.get, done)) / total:.0%}, "
            f"{(time.time() - start) / 60:.1f} min] {job.part}: {job.what}, seed {job.seed}: "
            f"{seconds:.1f} s, {costs[job]:.1f} s expected"
        )

    if not args.table_only:
        schedule.run(todo, size, folder, args.jobs, on_done)
    write(folder, size, docs, say)
    return folder


def main(argv=None) -> int | str:
    args = parser().parse_args(argv)
    try:
        run(args, partial(print, flush=True))
    except MCDError as error:
        return f"{type(error).__name__}: {error}"
    return 0
