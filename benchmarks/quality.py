"""MCD beside its baselines and controls, on three settings, in one frame.

    python benchmarks/quality.py [--quick] [--jobs 2] [--out bench-quality]

Ends with results.md, a figure and the rows of both as JSON lines, in OUT and, where nothing is
left out, in docs. Every finished measurement is a line on the disk: the same command goes on
where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from functools import partial
from pathlib import Path

from bench import jobs, methods, page
from bench.methods import TABLES
from bench.setting import SETTINGS, opened
from bench.sizes import SIZES
from bench.summary import summary

from mdlm_mcd.checkpoints.files import make_folder, read_json, write_text
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation.rows import existing
from mdlm_mcd.settings import console, hydra_errors

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("mdlm_mcd/**/*.py", "mdlm_mcd/**/*.yaml", "configs/**/*.yaml", "benchmarks/bench/*.py")
SOURCES += ("benchmarks/paper/compose.py", "mdlm_mcd/assets/**/*.*")
READERS = ("page.py", "summary.py")  # of figures that are there


def parsed(argv=None) -> argparse.Namespace:
    made = argparse.ArgumentParser(prog="quality.py", description=__doc__.partition("\n")[0])
    add = made.add_argument
    add("--quick", action="store_true", help="fewer methods, seeds and steps")
    add("--from-scratch", action="store_true", help="train the teacher of text and its judge")
    add("--size", choices=sorted(SIZES), help=argparse.SUPPRESS)
    add("--jobs", type=int, default=2, help="worker processes, one thread each")
    add("--out", type=Path, default=Path("bench-quality"), help="folder of figures")
    add("--part", action="append", choices=sorted(SETTINGS), help="only this")
    add("--method", action="append", help="only this method, and the teachers")
    add("--seeds", type=int, help="at most so many seeds a method")
    return made.parse_args(argv)


def code_version(root: Path = ROOT) -> str:
    """Hash all sources that figures could depend on, and their names: 12 hex digits."""
    digest = hashlib.sha256()
    for path in sorted({p for pattern in SOURCES for p in root.glob(pattern)}):
        if path.parent.name != "bench" or path.name not in READERS:
            digest.update(str(path.relative_to(root).as_posix()).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def described(part, rows: list[dict], version: str) -> str:
    """Return how a part was measured, as a line of the page."""
    row, seeds = rows[0], Counter(method for method, _ in {(r["method"], r["seed"]) for r in rows})
    counts = " to ".join(map(str, sorted({min(seeds.values()), max(seeds.values())})))
    machine, versions = (
        ", ".join(f"{k} {v}" for k, v in row[key].items()) for key in ("machine", "versions")
    )
    taught = f"teacher of {part.teacher_steps} steps" if part.teacher_steps else "shipped teacher"
    return (
        f"{taught}; students of {part.rounds} rounds of "
        f"{part.steps_per_round} steps (without rounds: {part.total_steps}), delta0 = "
        f"1/{round(1 / part.delta0)}; seeds a method: {counts}; {part.samples} samples a seed and "
        f"point by `sparse`, drawn in float64; N-step NELBO on {part.bound_rows} held-out rows; "
        f"held-out text scores {row['corpus']['perplexity']:.2f}. Code version {version}; "
        f"{machine}; {versions}."
    )


def write(folder: Path, size: str, docs: Path | None, say) -> None:
    """Write the page, its figure and its rows from what the jobs in `folder` wrote."""
    rows, how = [], []
    for name, part in SIZES[size].items():
        measured = [row for p in sorted((folder / name).glob("*.jsonl")) for row in existing(p)]
        if not measured:
            continue
        ends = [read_json(path, {}) for path in sorted((folder / name).glob("*.end"))]
        stopped = {end["method"]: end["why"] for end in ends if end.get("why")}
        rows += (found := summary(name, [r for r in measured if r["method"] not in stopped]))
        if name in methods.EXACT:
            say("\n".join((page.TITLES[name], *page.headline(found))))
        if learned := opened(name, size, folder / name).learned():
            rows.append({"part": name, "method": TABLES, **learned})
        version = folder.name.partition("-")[0]
        how.append(f"- {page.TITLES[name]}: {described(part, measured, version)}")
        how += [f"- Not measured: {method}: {why}" for method, why in stopped.items()]
    for path in filter(None, (folder / "results.md", docs)):
        write_text(path, page.page(rows, how, path.stem))
        write_text(path.with_suffix(".jsonl"), "".join(json.dumps(row) + "\n" for row in rows))
        if any(row["part"] in methods.EXACT for row in rows):
            page.figure(rows, path.with_suffix(".svg"))
        say(f"Wrote {path}, its rows and figure.")


def run(args, say=print) -> Path:
    """Run the benchmark; return the folder of its figures."""
    for flag in ("seeds", "jobs"):
        if (number := getattr(args, flag)) is not None and number < 1:
            raise ConfigError(f"--{flag} {number} must be at least 1.")
    size = args.size or ("quick" if args.quick else "full")
    size += "-from-scratch" * args.from_scratch
    parts = [name for name in SETTINGS if name in (args.part or SETTINGS)]
    few = not size.startswith("full")
    todo = jobs.plan(methods.named(args.method, few), parts, size, args.seeds)
    name = f"{code_version()}-{size}"  # other code, another folder
    whole = size == "full" and not (args.part or args.method or args.seeds)
    docs = ROOT / "docs" / "results.md" if whole else None
    folder, done = make_folder(args.out / name), []

    def on_done(job):
        done.append(job)
        say(f"[{len(done)}/{len(todo)}] {job.part}: {job.what}, seed {job.seed}")

    jobs.run_all(todo, size, folder, args.jobs, on_done)
    write(folder, size, docs, say)
    return folder


if __name__ == "__main__":
    with console.refusals(hydra_errors.ending):
        run(parsed(), partial(print, flush=True))
