"""Figure 3: the teacher and five rounds of MCD, from 8 to 512 steps."""

import sys

from paper.command import main

if __name__ == "__main__":
    sys.exit(main("figure3"))
