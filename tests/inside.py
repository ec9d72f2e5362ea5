"""The commands that benchmarks start as child processes, called in this process."""

from __future__ import annotations

from shell import QUIET, call

from mdlm_mcd.commands import main, stages
from mdlm_mcd.minihost import main as minihost


class Inside:
    """Stands in for `mdlm_mcd.commands.stages.run`; `calls` are those that it was asked for."""

    def __init__(self):
        self.calls: list[tuple[str, list[str]]] = []

    def __call__(self, module, arguments, log, *, folder=None, on_step=None):
        self.calls.append((module, list(arguments)))
        if module == "mdlm_mcd.commands.main":
            status, printed = call(lambda: main.main(list(arguments)))
        else:
            assert module == "mdlm_mcd.minihost.main"
            status, printed = call(minihost.main, ["main.py", *arguments, *QUIET])
        with log.open("a", encoding="utf-8") as file:
            print("$ python -m", module, *arguments, file=file)
            file.write(printed)
        return stages.Ended(status, printed)

    @property
    def stages(self) -> list[str]:
        """`algo` of each training, and the commands."""

        def name(given: list[str]) -> str:
            if given[0].startswith("mode="):
                return given[0]
            return next((a for a in given if a.startswith("algo=")), given[0])

        return [name(given) for _, given in self.calls]
