"""The paper's open questions, an experiment of under two minutes of a core each.

    python benchmarks/theory.py [--only NAME] [--write]

Prints the tables of docs/questions; --write puts them there.
"""

import argparse
import importlib
import sys
import time

import torch
from theory_lib import pages

from mdlm_mcd.errors import MCDError

QUESTIONS = ("backward_kl", "fixed_point", "shared_u", "fully_masked", "spans", "diversity")


def run(name: str, write: bool) -> None:
    module = importlib.import_module(f"theory_lib.{name}")
    print(f"\n# {module.__doc__.strip()} ({name})", flush=True)
    for kind in ("exact", "measured"):
        if not hasattr(module, kind):
            continue
        start = time.process_time()
        text = pages.markdown(getattr(module, kind)())
        seconds = time.process_time() - start
        print(f"\n{text}\n\n[{kind}, {seconds:.0f} s of a core]", flush=True)
        if write:
            pages.write(name, kind, text)


def main(argv=None) -> int | str:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", choices=QUESTIONS, action="append", metavar="NAME", help=", ".join(QUESTIONS)
    )
    parser.add_argument("--write", action="store_true", help="into docs/questions")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        for name in args.only or QUESTIONS:
            run(name, args.write)
    except MCDError as error:
        return f"{type(error).__name__}: {error}"
    return 0


if __name__ == "__main__":
    sys.exit(main())
