"""`mdlm-mcd run [HYDRA OVERRIDES]`: in place of `python main.py`, in a host's folder."""

from __future__ import annotations

import os
import subprocess
import sys


def run(overrides: list[str]) -> int:
    """Run the host's main.py, patched in memory; return its status."""
    command = [sys.executable, "-m", "mdlm_mcd.hosts.launch", *overrides]
    if os.name == "posix":  # the host takes our place: its signals, its status
        os.execv(sys.executable, command)
    return subprocess.call(command)
