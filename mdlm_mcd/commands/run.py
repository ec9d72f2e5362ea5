"""`mdlm-mcd run [HYDRA OVERRIDES]`: in place of `python main.py`, in a host's folder."""

from __future__ import annotations

import os
import subprocess
import sys


def configure(parser) -> None:
    parser.description = (
        "Runs the main.py of the clone of MDLM or Duo in this folder, patched in memory, and "
        "supplies what the machine lacks (flash-attn, CUDA). Every argument is the host's own, -m "
        "included; `mdlm-mcd run --hydra-help` lists Hydra's."
    )
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for python main.py")
    parser.epilog = "Example: mdlm-mcd run algo=mcd algo.teacher_path=mdlm.ckpt"


def run(overrides: list[str]) -> int:
    """Run the host's main.py, patched in memory; return its status."""
    command = [sys.executable, "-m", "mdlm_mcd.hosts.launch", *overrides]
    if os.name == "posix":  # the host takes our place: its signals, its status
        os.execv(sys.executable, command)
    return subprocess.call(command)
