"""The `mdlm-mcd` command: find the subcommand and hand it its arguments."""

from __future__ import annotations

import argparse
import importlib
import sys

from .. import __version__
from ..settings import console

# The modules, and what `mdlm-mcd --help` says of each. Only that of the command in use is
# imported: most need torch, which takes seconds.
COMMANDS = {
    "demo": "distil the teacher that comes with the package, compare them",
    "patch": "let a clone of Duo or MDLM train our classes; a few lines",
    "run": "run the main.py of the host in this folder, patched in memory only",
    "doctor": "what would stop a run, and what a bug report needs, on one screen",
    "export": "write a checkpoint as a Hugging Face folder",
    "sample": "print samples: from nothing, after a prompt, or in the gaps of a text",
    "sweep": "sample and measure checkpoints over steps and temperatures",
    "report": "one page out of results files: tables, curves, frontier, samples",
    "figures": "draw the paper's pictures from the code, one of them in motion",
}


class Help(argparse.HelpFormatter):
    """Help on one screen: usage without options, defaults, short names, a wide left column."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30)

    def add_usage(self, usage, actions, groups, prefix=None):
        needed = [action for action in actions if action.required or not action.option_strings]
        super().add_usage(usage, needed, [], prefix)

    def add_argument(self, action):
        default, words = action.default, [action.help] if action.help else []
        if action.option_strings and default and default is not argparse.SUPPRESS:
            action.help = "; ".join([*words, f"default: {default}"])
        super().add_argument(action)

    def _get_default_metavar_for_optional(self, action):
        usual = super()._get_default_metavar_for_optional(action)
        return "N" if action.type in (int, float) else usual


def parser(argv: list[str]) -> argparse.ArgumentParser:
    """Build the parser, with the arguments of the subcommand that is in use."""
    root = argparse.ArgumentParser(
        prog="mdlm-mcd",
        description="Masked Consistency Distillation for masked diffusion language models.",
        epilog="Example: mdlm-mcd demo --out demo",
        formatter_class=Help,
    )
    root.add_argument("--version", action="version", version=__version__)
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, formatter_class=Help)
        if argv[:1] == [name]:
            importlib.import_module(f".{name}", __package__).configure(command)
    return root


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0: done, 1: refused in a sentence, 130: interrupted."""
    console.write_any_text()
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv[:1] == ["run"] and argv[1:] not in (["--help"], ["-h"]):
            from . import run

            return run.run(argv[1:])  # Hydra's own, options such as -m included
        args = parser(argv).parse_args(argv)
        return args.call(args) or 0
    except Exception as error:
        from ..settings import hydra_errors

        if (words := hydra_errors.ending(error, "mdlm-mcd")) is None:
            raise
        print(words, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmdlm-mcd: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
