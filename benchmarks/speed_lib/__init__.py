"""What `benchmarks/speed.py` measures with."""
