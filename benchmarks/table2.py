"""Table 2: the losses hybrid, kl_fwd and kl_bwd after one round, at 32 steps."""

import sys

from paper.command import main

if __name__ == "__main__":
    sys.exit(main("table2"))
