"""Mutated files against everything here that reads files; `benchmarks/fuzz.py`."""
