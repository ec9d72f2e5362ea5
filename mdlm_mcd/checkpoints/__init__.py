"""Open checkpoints safely, compare them, and write files as a whole."""
