"""Parts of `benchmarks/quality.py`; see docs/quality.md for what it does."""
