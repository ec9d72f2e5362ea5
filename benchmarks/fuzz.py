"""`make fuzz`: thousands of spoilt and evil files, and what became of them.

    python benchmarks/fuzz.py --cases 10000 --out fuzz

Each kind of file is read in a process of its own, with 1 GiB of memory beyond what its
libraries take, a limit of seconds a case, and an audit hook for what it does to the
machine. A bug is an exception that is not one of ours, memory or time out of reach, a
process that died, a file written outside of the case's folder, or any trace of code
run. Inputs that reach new lines of this package are mutated further. Ends with status 1
where there was a bug; its input lies in OUT/KIND/bugs.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import selectors
import shutil
import subprocess
import sys
import time
from pathlib import Path

from mdlm_mcd.checkpoints.files import check_overwrite

ROOT = Path(__file__).resolve().parents[1]
# Of a hundred cases.
KINDS = {
    "checkpoint": 30,
    "safetensors": 18,
    "folder": 12,
    "evaluator": 4,
    "resume": 4,
    "eval": 2,
    "results": 18,
    "overrides": 8,
    "recipe": 4,
}
SILENCE = 400.0  # seconds after which a process that ignores its alarm is ended


def lines(kind: str, first: int, last: int, seed: int, folder: Path):
    """What one process says of its cases; the last may be its own end."""
    command = [sys.executable, "-m", "fuzzing.loop", kind]
    child = subprocess.Popen(
        [*command, str(first), str(last), str(seed), str(folder)],
        stdout=subprocess.PIPE,
        stderr=(folder / "stderr").open("ab"),
        cwd=ROOT / "benchmarks",
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    waiting = selectors.DefaultSelector()
    waiting.register(child.stdout, selectors.EVENT_READ)
    try:
        while waiting.select(SILENCE):
            line = child.stdout.readline()
            if not line:
                break
            yield json.loads(line)
        else:
            child.kill()
            yield {"end": "bug: hang, deaf to its alarm"}
        if child.wait() and child.returncode != -9:
            yield {"end": f"bug: the process died ({child.returncode})"}
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def fuzz(kind: str, cases: int, seed: int, folder: Path) -> list[dict]:
    """All cases of a kind; a process that dies is followed by another."""
    ours = (folder / "stderr").exists()
    check_overwrite(f"--out: {folder}", folder, lambda _: "" if ours else "no stderr")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    said: list[dict] = []
    while len(said) < cases:
        begun = len(said)
        for line in lines(kind, begun, cases, seed, folder):
            if "n" not in line:  # the process is gone, and this was its last case
                (folder / "bugs").mkdir(exist_ok=True)
                name = folder / "bugs" / f"{kind}-{len(said)}"
                if (folder / "case").exists():
                    shutil.copyfile(folder / "case", name)
            said.append({**line, "kind": kind})
        if len(said) == begun:
            raise SystemExit(f"{kind}: the process says nothing; see {folder}/stderr.")
    return said


def family(end: str) -> str:
    return re.sub(r"[^:]*/[^ ]*", "PATH", end) if end.startswith("bug") else end


def main() -> int:
    root = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    root.add_argument("--cases", type=int, default=10_000)
    root.add_argument("--seed", type=int, default=1)
    root.add_argument("--out", default="fuzz", metavar="DIR")
    root.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    args = root.parse_args()
    share = sum(KINDS[kind] for kind in args.kind)
    start, bugs = time.monotonic(), 0
    print(
        f"{'kind':<12}{'cases':>7}{'opened':>8}{'refused':>8}{'bugs':>6}"
        f"{'slowest s':>11}{'pairs':>7}{'kept':>6}"
    )
    for kind in args.kind:
        count = -(-args.cases * KINDS[kind] // share)
        said = fuzz(kind, count, args.seed, Path(args.out).resolve() / kind)
        ends = collections.Counter(family(line["end"]) for line in said)
        bad = {e: n for e, n in ends.items() if e.startswith("bug")}
        bugs += sum(bad.values())
        refused = sum(n for e, n in ends.items() if e.startswith("refused"))
        slowest = max(line.get("seconds", 0.0) for line in said)
        pairs, kept = (max(line.get(name, 0) for line in said) for name in ("reached", "pool"))
        print(
            f"{kind:<12}{len(said):>7}{ends['opened']:>8}{refused:>8}"
            f"{sum(bad.values()):>6}{slowest:>11.1f}{pairs:>7}{kept:>6}",
            flush=True,
        )
        for end, n in sorted(bad.items(), key=lambda x: -x[1]):
            first = next(s for s in said if family(s["end"]) == end)
            print(f"    {n} x {end} {first.get('at', '')} {first.get('words', '')}")
    print(f"{time.monotonic() - start:.0f} seconds; bugs: {bugs}")
    return bool(bugs)


if __name__ == "__main__":
    sys.exit(main())
