"""Time the law of the noise gap: `duality.NoiseGap`'s cdf, pdf and icdf.

    python benchmarks/noise_gap.py [--repeats 7]

For two classes, GPT-2's vocabulary with a mask, and 200,000, at 65 points and at 1,000. `cdf` is
what `duality.duo_transform` takes. One thread; medians.
"""

import argparse
import statistics
import timeit

import torch

from mdlm_mcd.duality import NoiseGap

CLASSES, POINTS = (2, 50_258, 200_000), (65, 1_000)


def measure(num_classes: int, points: int, repeats: int) -> list[float]:
    """Return milliseconds of cdf, pdf and icdf; u in the middle of equal parts of (0, 1)."""
    law = NoiseGap(num_classes)
    u = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    y = law.icdf(u)
    calls = (lambda: law.cdf(y), lambda: law.pdf(y), lambda: law.icdf(u))
    return [1000 * statistics.median(timeit.repeat(f, number=1, repeat=repeats)) for f in calls]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"milliseconds, one thread; median of {args.repeats}")
    print(f"{'classes':>9}{'points':>8}{'cdf':>8}{'pdf':>8}{'icdf':>8}")
    for num_classes in CLASSES:
        for points in POINTS:
            taken = measure(num_classes, points, args.repeats)
            print(f"{num_classes:>9,}{points:>8,}" + "".join(f"{x:>8.1f}" for x in taken))


if __name__ == "__main__":
    main()
