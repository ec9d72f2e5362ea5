"""Lightning mixins that make a student of a host's model."""

from .cd4lm import CD4LM
from .dcd import DCD
from .mcd import MCD
from .mmd import MMD
from .sdtt import SDTT
from .subset import Subset

__all__ = ["CD4LM", "DCD", "MCD", "MMD", "SDTT", "Subset"]
