"""Settings as Hydra composes them, and how they reach the console."""
