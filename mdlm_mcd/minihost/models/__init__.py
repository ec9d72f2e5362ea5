from . import dit, ema

__all__ = ["dit", "ema"]
