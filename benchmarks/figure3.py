"""Figure 3: the teacher and five rounds of MCD, from 8 to 512 steps.

    python benchmarks/figure3.py --dry-run
    python benchmarks/figure3.py --out runs --teacher mdlm.ckpt --held-out held_out.txt

`--help` lists the rest; docs/paper_setting.md says what it needs. The experiments are
data, in paper/experiments.py.
"""

import sys

from paper.command import main

if __name__ == "__main__":
    sys.exit(main("figure3"))
