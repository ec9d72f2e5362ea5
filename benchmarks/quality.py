"""MCD beside its baselines and controls, on two settings, in one frame.

    python benchmarks/quality.py [--quick] [--jobs 2] [--out bench-quality]

Ends with the verdict table, a report page for each part and docs/results.md. Every
finished measurement is a line on the disk: the same command goes on where it stopped.
"""

import sys

from bench.main import main

if __name__ == "__main__":
    sys.exit(main())
