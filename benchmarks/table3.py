"""Table 3: 863M parameters, one round, Llama 3 8B as evaluator.

    python benchmarks/table3.py --dry-run
    python benchmarks/table3.py --out runs --teacher mdlm.ckpt --held-out held_out.txt

`--help` lists the rest; docs/paper_setting.md says what it needs. The experiments are
data, in paper/experiments.py.
"""

import sys

from paper.command import main

if __name__ == "__main__":
    sys.exit(main("table3"))
