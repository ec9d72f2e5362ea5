"""Table 1: MCD, SDTT and Duo's DCD over five rounds, at 32 to 512 steps.

    python benchmarks/table1.py --dry-run
    python benchmarks/table1.py --out runs --teacher mdlm.ckpt --held-out held_out.txt

`--help` lists the rest; docs/paper_setting.md says what it needs. The experiments are
data, in paper/experiments.py.
"""

import sys

from paper.command import main

if __name__ == "__main__":
    sys.exit(main("table1"))
