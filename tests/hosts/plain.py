"""Runs the main.py of the host in this folder as it is on disk, on any machine.

`python plain.py OVERRIDES`: no patch in memory, only what stands in for missing
hardware. In place of `python main.py` where there is no flash-attn or CUDA.
"""

import runpy
import sys
from pathlib import Path

from mdlm_mcd.hosts import shims

if __name__ == "__main__":
    shims.install(Path.cwd())
    sys.path[0] = str(Path.cwd())
    sys.argv[0] = str(Path.cwd() / "main.py")
    runpy.run_path(sys.argv[0], run_name="__main__")
