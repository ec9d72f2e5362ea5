"""One process of the fuzzer: cases of one kind, kept where they reach new lines."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sys
import time
import traceback
from pathlib import Path

from .coverage import Coverage
from .guard import Guard, Hang, limit_memory, out_of_memory

ROOT = Path(__file__).resolve().parents[2]
MEMORY = 1 << 30  # bytes that a case may take; the largest seed has 0.2 MB
LONGEST = 1 << 17  # bytes of an input that is kept
FRESH = 0.5  # of the cases: mutations of what reached new lines


def main(kind: str, first: int, last: int, seed: int, folder: Path, traced: bool = True) -> None:
    """Cases first..last; a JSON line each on stdout, the input in folder/case first.

    Case n depends on the seed, n and what the cases before it have reached. Not traced
    they reach nothing, which is several times as quick.
    """
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    import logging

    from .targets import TARGETS

    logging.disable(logging.CRITICAL)
    target, home = TARGETS[kind], folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    found = target.seeds(home)
    if kind == "folder":
        from . import seeds

        (home / "good.safetensors").write_bytes(seeds.safetensors(home)[0])
    reached = sorted((folder / "reached").glob("*"), key=lambda p: int(p.name))
    pool = [path.read_bytes() for path in reached]
    (folder / "reached").mkdir(exist_ok=True)
    coverage = Coverage((str(ROOT / "mdlm_mcd"),))
    tracing = coverage if traced else contextlib.nullcontext()
    guard = Guard()
    out = sys.stdout
    sys.stdout = open(os.devnull, "w")

    def one(data: bytes, rng: random.Random) -> dict:
        place = folder / "run"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        os.chdir(place)
        start, end, error = time.monotonic(), "opened", None
        try:
            with guard.case((str(place), str(home)), target.seconds), tracing:
                target.read(place, data, rng, home)
        except Hang:
            end = "bug: hang"
        except target.refusals as refusal:
            end, error = f"refused: {type(refusal).__name__}", refusal
            if "\n" in str(error) and isinstance(error, TARGETS[kind].refusals[:2]):
                end = "bug: a refusal of several lines"
        except BaseException as crash:  # also SystemExit, which ends a program
            end, error = f"bug: {type(crash).__name__}", crash
        if out_of_memory(error):
            end = "bug: memory"
        if guard.seen:
            end = f"bug: did {guard.seen[0]}"
        if (place / "canary").exists() or (home / "canary").exists():
            end = "bug: the canary is dead"
        said = {"end": end, "seconds": round(time.monotonic() - start, 3)}
        if end.startswith("bug") and error is not None:
            frames = traceback.extract_tb(error.__traceback__)[-4:]
            said["at"] = [f"{Path(f.filename).name}:{f.lineno}" for f in frames]
            said["words"] = ascii(str(error))[:300]
        return said

    limited = False
    for n in range(first, last):
        rng = random.Random(f"{seed} {kind} {n}")
        if n < len(found):
            data = found[n]
        else:
            fresh = pool and rng.random() < FRESH
            data = target.mutate(rng, rng.choice(pool if fresh else found), found)
        (folder / "case").write_bytes(data)
        said = one(data, rng)
        if not limited and n >= min(len(found), 3):
            limit_memory(MEMORY)  # once all libraries are loaded
            limited = True
        if coverage.fresh() and len(data) < LONGEST:
            pool.append(data)
            (folder / "reached" / str(n)).write_bytes(data)
        if said["end"].startswith("bug"):
            bugs = folder / "bugs"
            bugs.mkdir(exist_ok=True)
            (bugs / f"{kind}-{n}").write_bytes(data)
        said |= {"n": n, "reached": len(coverage.known), "pool": len(pool)}
        out.write(json.dumps(said) + "\n")
        out.flush()
    sys.stdout = out


if __name__ == "__main__":
    kind, first, last, seed, folder = sys.argv[1:]
    main(kind, int(first), int(last), int(seed), Path(folder))
