"""Table 1: MCD, SDTT and Duo's DCD over five rounds, at 32 to 512 steps."""

import sys

from paper.command import main

if __name__ == "__main__":
    sys.exit(main("table1"))
