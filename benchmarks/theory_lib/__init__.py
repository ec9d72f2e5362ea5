"""The open questions, one module each; `benchmarks/theory.py` runs them."""
