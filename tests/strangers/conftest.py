"""The fuzzer is a folder beside the package: put it on the path."""

import sys

from inside import BENCHMARKS

if str(BENCHMARKS) not in sys.path:
    sys.path.insert(0, str(BENCHMARKS))
