"""Runs the main.py of the host in this folder as it is on disk, on any machine.

`python plain.py OVERRIDES`: no patch in memory, only what stands in for missing
hardware. In place of `python main.py` where there is no flash-attn or CUDA.
"""

import sys
from pathlib import Path

from mdlm_mcd.hosts import stubs

if __name__ == "__main__":
    stubs.install(Path.cwd())
    path = str(Path.cwd() / "main.py")
    sys.path[0] = str(Path.cwd())
    sys.argv[0] = path
    scope = sys.modules["__main__"].__dict__
    scope["__file__"] = path
    exec(stubs.compiled(path), scope)
