"""Table 3: 863M parameters, one round, Llama 3 8B as evaluator."""

import sys

from paper.command import main

if __name__ == "__main__":
    sys.exit(main("table3"))
