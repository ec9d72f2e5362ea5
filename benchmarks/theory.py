"""The paper's open questions, an experiment of under two minutes of a core each.

    python benchmarks/theory.py [--only NAME]

Prints the tables of docs/design/questions.
"""

import argparse
import importlib
import time

import torch

QUESTIONS = ("backward_kl", "fixed_point", "fully_masked")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    how = dict(choices=QUESTIONS, action="append", metavar="NAME")
    parser.add_argument("--only", help=", ".join(QUESTIONS), **how)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.only or QUESTIONS:
        module = importlib.import_module(f"theory_lib.{name}")
        print(f"\n# {module.__doc__.strip()} ({name})")
        for kind in ("exact", "measured"):
            if hasattr(module, kind):
                start = time.process_time()
                for table in getattr(module, kind)():
                    print(f"\n{table.markdown()}", flush=True)
                print(f"\n[{kind}, {time.process_time() - start:.0f} s of a core]", flush=True)


if __name__ == "__main__":
    main()
