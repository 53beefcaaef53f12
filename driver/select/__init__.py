"""Which units of the lossy passes pay: measured time and error, one exact program over all of them, a front."""

from .front import Front, Point, new_picture
from .goal import Goal, Timing
from .known import Known, Learned
from .loop import Choice, Lab, select
from .problem import Border, Problem, make_problem, operations

__all__ = [
    "Border",
    "Choice",
    "Front",
    "Goal",
    "Known",
    "Lab",
    "Learned",
    "Point",
    "Problem",
    "Timing",
    "make_problem",
    "new_picture",
    "operations",
    "select",
]
