"""Which rewrite makes a model wrong, and the smallest model that shows it."""

from .search import Bisection, Guilty, bisect, find_guilty

__all__ = ["Bisection", "Guilty", "bisect", "find_guilty"]
