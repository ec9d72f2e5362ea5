"""Lightning callbacks of a distillation."""
