"""Which rewrite makes a model wrong, and the smallest model that shows it."""

from .report import Bisection, bisect
from .search import Guilty, find_guilty

__all__ = ["Bisection", "Guilty", "bisect", "find_guilty"]
