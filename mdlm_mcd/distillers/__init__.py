"""Lightning mixins that turn a host's masked model into a student."""

from .mcd import MCD

__all__ = ["MCD"]
