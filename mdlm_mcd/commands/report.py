"""`mdlm-mcd report RESULTS`: one page out of results files."""

from __future__ import annotations

import sys

from ..checkpoints.files import expanded
from ..evaluation import report


def configure(parser) -> None:
    parser.description = (
        "Writes a self-contained HTML page without scripts. Rows that do "
        "not compare (another evaluator, sampling dtype, seed, held-out text, number "
        "or length of samples; a checkpoint that changed under its name) are refused."
    )
    add = parser.add_argument
    add("results", nargs="+", metavar="RESULTS", help="JSON lines of mdlm-mcd sweep")
    add("--out", default="report.html", metavar="FILE")
    add("--reference", metavar="MODEL", help="compared with; the teacher by default")
    add("--title", default="", help="of the page")
    add("--force", action="store_true", help="show them all the same, and mark them")
    parser.epilog = "Example: mdlm-mcd report results.jsonl --out report.html"
    parser.set_defaults(call=call)


def call(args) -> None:
    out = expanded(args.out, "--out")
    how = dict(force=args.force, reference=args.reference, title=args.title)
    found = report.write(args.results, out, **how)
    for sentence in found.notes:
        print(f"mdlm-mcd: {sentence}", file=sys.stderr)
    print(f"Wrote {out}: {len(found.points)} rows.")
