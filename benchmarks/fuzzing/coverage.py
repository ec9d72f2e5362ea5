"""Which steps between lines of our modules a call takes: a small coverage tracer.

Not a fuzzer's instrumentation: pairs of lines, without counts, seen by
`sys.settrace`, and nothing of what runs in C, in torch or in other packages.
"""

from __future__ import annotations

import sys


class Coverage:
    """`with coverage:` collects in `found`; `fresh()` says whether any was new."""

    def __init__(self, under: tuple[str, ...]):
        self.under = under
        self.known: set[tuple] = set()
        self.found: set[tuple] = set()

    def _call(self, frame, event, arg):
        code = frame.f_code
        if not code.co_filename.startswith(self.under):
            return None
        last, found = 0, self.found

        def line(frame, event, arg):
            nonlocal last
            found.add((code, last, frame.f_lineno))
            last = frame.f_lineno
            return line

        return line

    def __enter__(self):
        self.found = set()
        sys.settrace(self._call)

    def __exit__(self, *_):
        sys.settrace(None)

    def fresh(self) -> bool:
        more = not self.found <= self.known
        self.known |= self.found
        return more
