"""Table 2: the losses hybrid, kl_fwd and kl_bwd after one round, at 32 steps.

    python benchmarks/table2.py --dry-run
    python benchmarks/table2.py --out runs --teacher mdlm.ckpt --held-out held_out.txt

`--help` lists the rest; docs/paper_setting.md says what it needs. The experiments are
data, in paper/experiments.py.
"""

import sys

from paper.command import main

if __name__ == "__main__":
    sys.exit(main("table2"))
