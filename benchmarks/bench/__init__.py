"""Parts of `benchmarks/quality.py`; see docs/results.md for what they find."""
