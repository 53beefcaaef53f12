"""Which rewrite makes a model wrong, and the smallest model that shows it."""

from .align import Alignment, align
from .report import Bisection, bisect
from .runtime import RuntimeBisection, bisect_runtime
from .search import Guilty, find_guilty
from .tool import ToolBisection, bisect_tool

__all__ = [
    "Alignment",
    "Bisection",
    "Guilty",
    "RuntimeBisection",
    "ToolBisection",
    "align",
    "bisect",
    "bisect_runtime",
    "bisect_tool",
    "find_guilty",
]
