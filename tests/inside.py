"""The commands that benchmarks start as child processes, called in this process."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from unittest import mock

from hydra.core.global_hydra import GlobalHydra

from mdlm_mcd.commands import main
from mdlm_mcd.minihost import main as minihost

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
# Hydra would take over the root logger.
QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none")


class Inside:
    """Stands in for `mdlm_mcd.commands.stages.start`; `calls` are those that it was asked for."""

    def __init__(self):
        self.calls: list[tuple[str, list[str]]] = []

    def __call__(self, module, arguments, log, *, folder=None, waiting=None):
        self.calls.append((module, list(arguments)))
        with log.open("a", encoding="utf-8") as file, contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(file))
            stack.enter_context(contextlib.redirect_stderr(file))
            if module == "mdlm_mcd.commands.main":
                return main.main(list(arguments))
            assert module == "mdlm_mcd.minihost.main"
            argv = ["main.py", *arguments, *QUIET]
            stack.enter_context(mock.patch.object(sys, "argv", argv))
            GlobalHydra.instance().clear()
            try:
                minihost.main()
            except SystemExit as end:
                file.write(f"{end}\n")
                return 1
        return 0

    @property
    def stages(self) -> list[str]:
        """`algo` of each training, and the commands."""

        def name(given: list[str]) -> str:
            if given[0].startswith("mode="):
                return given[0]
            return next((a for a in given if a.startswith("algo=")), given[0])

        return [name(given) for _, given in self.calls]
