"""Lightning mixins that turn a host's model into a student."""

from .cd4lm import CD4LM
from .mcd import MCD
from .sdtt import SDTT

__all__ = ["CD4LM", "MCD", "SDTT"]
