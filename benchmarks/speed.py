"""Measure a training step, a sample and their growth, beside the hosts' own code.

    python benchmarks/speed.py --out DIR [--hosts FOLDER] [--device cpu] [--tiny]
                               [--parts steps,samples,growth,processes,head]

Rows of JSON in DIR/figures.jsonl, each printed as it is measured. Trainings are programs
of their own that take steps in turn; a ratio is of medians within one such pair. --hosts:
a folder with clones of Duo and MDLM (`duo-main`, `duo-ch1`, `mdlm`), whose own training,
distillation and sampling are then measured too. --tiny: sizes of a test.
"""

import argparse
import json
import platform
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from speed_lib.head import head
from speed_lib.parts import Bench
from speed_lib.worker import LARGE, TINY, Size

PARTS = ("steps", "samples", "growth", "processes", "head")


def clones(folder: Path | None) -> dict[str, Path]:
    if folder is None:
        return {}
    return {p.name: p.resolve() for p in sorted(folder.iterdir()) if (p / "main.py").is_file()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hosts", type=Path)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--repeats", type=int, default=5)
    for name in ("vocab", "width", "blocks", "length", "batch", "threads"):
        parser.add_argument(f"--{name}", type=int)
    args = parser.parse_args()
    asked = args.parts.split(",")
    if unknown := set(asked) - set(PARTS):
        parser.error(f"--parts={','.join(unknown)} is unknown: choose of {', '.join(PARTS)}")
    given = TINY if args.tiny else LARGE if args.device == "cuda" else {}
    chosen = {k: v for k, v in vars(args).items() if k in Size.__annotations__ and v is not None}
    size = Size(**{**given, **chosen})
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(size, Path(work), clones(args.hosts), args.repeats, args.tiny)
        with (args.out / "figures.jsonl").open("a", encoding="utf-8") as file:

            def write(row):
                file.write(json.dumps(row) + "\n")
                file.flush()
                numbers = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}
                print("  ".join(f"{k}={v}" for k, v in numbers.items()), flush=True)

            cuda = args.device == "cuda"
            about = {"torch": torch.__version__, "python": platform.python_version()}
            about["processor"] = torch.cuda.get_device_name() if cuda else platform.machine()
            write({"part": "machine", **asdict(size), **about})
            for name in asked:
                rows = head(size, args.tiny) if name == "head" else getattr(bench, name)()
                for row in rows:
                    write(row)


if __name__ == "__main__":
    main()
