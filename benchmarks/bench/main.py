"""The command line of `benchmarks/quality.py`."""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

from mdlm_mcd.checkpoints.files import check_overwrite
from mdlm_mcd.commands.sweep import machine, versions
from mdlm_mcd.errors import ConfigError, MCDError

from . import jobs, methods, results, schedule, store
from . import setting as settings
from .setting import SETTINGS
from .sizes import SIZES


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="quality.py", description="MCD beside its baselines and controls."
    )
    add = made.add_argument
    add("--quick", action="store_true", help="a part of it, in at most 10 minutes")
    add("--size", choices=sorted(SIZES), help=argparse.SUPPRESS)
    add("--jobs", type=int, default=2, help="worker processes, one thread each")
    add("--out", type=Path, default=Path("bench-quality"), help="folder of figures")
    add("--part", action="append", help=f"only this: {', '.join(SETTINGS)}")
    add("--method", action="append", help="only this method, and the teachers")
    add("--seeds", type=int, help="at most so many seeds a method")
    add("--teacher", default="trained", help="trained, or oracle: distil all from it")
    add(
        "--docs",
        type=Path,
        help="write the results there, too (docs/results.md where nothing is left out)",
    )
    add("--table-only", action="store_true", help="no measuring, only tables")
    add("--plan", action="store_true", help="only say what would be done, and its time")
    return made


def check(args) -> None:
    """Raises ConfigError for what cannot be run."""
    if args.seeds is not None and args.seeds < 1:
        raise ConfigError(f"--seeds {args.seeds} must be at least 1.")
    if args.jobs < 1:
        raise ConfigError(f"--jobs {args.jobs} must be at least 1.")
    for part in args.part or ():
        if part not in SETTINGS:
            raise ConfigError(f"--part {part} is unknown: choose among {', '.join(SETTINGS)}.")
    if args.teacher not in ("trained", "oracle"):
        raise ConfigError(f"--teacher {args.teacher} is unknown: choose trained or oracle.")
    if args.teacher == "oracle" and "text" in (args.part or SETTINGS):
        raise ConfigError("--teacher oracle has no exact denoiser of text: add --part language.")


def processor() -> dict[str, str]:
    """The CPU's own name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    names = {x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")}
    return {"cpu": ", ".join(sorted(names))} if names else {}


def run(args, say=print) -> Path:
    """The benchmark; answers the folder of its figures."""
    check(args)
    size = args.size or ("quick" if args.quick else "full")
    chosen = methods.named(args.method, quick=size != "full")
    name = size
    if args.teacher == "oracle":
        chosen, name = methods.from_oracle(chosen), f"{size}-oracle"
    parts = [name for name in SETTINGS if name in (args.part or SETTINGS)]
    todo = jobs.plan(chosen, parts, size, args.seeds)
    version = store.code_version()
    costs = {job: job.cost(SIZES[size][job.part]) for job in todo}
    minutes = sum(costs.values()) / args.jobs / 60
    say(
        f"{len(todo)} jobs, about {minutes:.0f} min with {args.jobs} processes on as "
        "many free cores; the same command goes on after an interruption."
    )
    if args.plan:
        for part in parts:
            spent = sum(c for job, c in costs.items() if job.part == part)
            say(f"  {part}: {spent / 60:.1f} core minutes")
        return args.out
    if args.table_only and not store.Store(args.out / f"{version}-{name}").rows():
        raise ConfigError(
            f"--table-only finds no figures of this code ({version}) in --out "
            f"{args.out}: leave it out, to measure."
        )
    whole = not (args.part or args.method or args.seeds) and name == "full"
    docs = args.docs or (store.ROOT / "docs" / "results.md" if whole else None)
    if docs is not None:
        check_overwrite(f"--docs {docs}", docs, results.foreign)
    folder, said = store.claim(args.out, version, name)
    if said:
        say(said)
    if not args.table_only:
        start, spent, total = time.time(), [0.0, 0], sum(costs.values())

        def on_done(job, seconds):
            spent[0], spent[1] = spent[0] + costs[job], spent[1] + 1
            gone = (time.time() - start) / 60
            say(
                f"[{spent[1]}/{len(todo)}, {spent[0] / total:.0%}, {gone:.1f} min] "
                f"{job.part}: {job.what}, seed {job.seed}: {seconds:.1f} s, "
                f"{costs[job]:.1f} s expected"
            )

        schedule.run(todo, size, folder, args.jobs, on_done)
        known = {}
        for part in parts:
            setting = settings.opened(part, size, folder / part)
            if all(map(setting.has, setting.preparations)):
                known[part] = setting.facts()
        here = {"machine": processor() | machine("cpu"), "versions": versions()}
        store.note(folder, (time.time() - start) / 60, here, known)
    results.write(folder, size, docs=docs, say=say)
    return folder


def main(argv=None) -> int | str:
    args = parser().parse_args(argv)
    try:
        run(args, partial(print, flush=True))
    except MCDError as error:
        return f"{type(error).__name__}: {error}"
    return 0
