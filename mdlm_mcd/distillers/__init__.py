"""Lightning mixins that make a student of a host's model."""

from .cd4lm import CD4LM
from .dcd import DCD
from .mcd import MCD, Subset
from .mmd import MMD
from .sdtt import SDTT

__all__ = ["CD4LM", "DCD", "MCD", "MMD", "SDTT", "Subset"]
