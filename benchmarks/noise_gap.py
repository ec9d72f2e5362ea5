"""Seconds that the law of the noise gap takes to build and to evaluate.

    python benchmarks/noise_gap.py [--repeats 7]

`duality.NoiseGap` for two classes, GPT-2's vocabulary with a mask, and 200,000, at 65
points and at 1,000. `cdf` is what `duality.duo_transform` takes. One thread; medians.
"""

import argparse
import statistics
import time

import torch

from mdlm_mcd.duality import NoiseGap

CLASSES, POINTS = (2, 50_258, 200_000), (65, 1_000)


def milliseconds(call, repeats: int) -> float:
    call()  # what is done once in a process is not the law's
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return 1000 * statistics.median(taken)


def measure(num_classes: int, points: int, repeats: int) -> dict[str, float]:
    """Milliseconds by what is done; u in the middle of equal parts of (0, 1)."""
    law = NoiseGap(num_classes)
    u = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    y = law.icdf(u)
    calls = {
        "build": lambda: NoiseGap(num_classes),
        "cdf": lambda: law.cdf(y),
        "pdf": lambda: law.pdf(y),
        "icdf": lambda: law.icdf(u),
    }
    return {name: milliseconds(call, repeats) for name, call in calls.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"milliseconds, one thread; median of {args.repeats}")
    print(f"{'classes':>9}{'points':>8}{'build':>8}{'cdf':>8}{'pdf':>8}{'icdf':>8}")
    for num_classes in CLASSES:
        for points in POINTS:
            taken = measure(num_classes, points, args.repeats)
            print(f"{num_classes:>9,}{points:>8,}" + "".join(f"{x:>8.1f}" for x in taken.values()))


if __name__ == "__main__":
    main()
