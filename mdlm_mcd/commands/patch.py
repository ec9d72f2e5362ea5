"""`mdlm-mcd patch PATH`: let a clone of Duo or MDLM train our classes."""

from __future__ import annotations

from ..hosts import patches, specs


def configure(parser) -> None:
    parser.description = (
        "Applies the patch for the host in PATH (see patches/README.md). "
        "A host with edits of its own in those lines is left alone."
    )
    parser.add_argument("path", metavar="PATH", help="folder of the clone")
    parser.add_argument("--check", action="store_true", help="only say what it would do")
    parser.add_argument("--revert", action="store_true", help="take the patch out again")
    parser.epilog = "Example: mdlm-mcd patch path/to/clone"
    parser.set_defaults(call=call)


def call(args) -> None:
    spec = specs.of_folder(args.path)
    print(patches.patch(args.path, spec, check=args.check, revert=args.revert))
