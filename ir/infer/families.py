"""The tables of rules, complete: importing the families fills them."""

from __future__ import annotations

from . import attention as attention
from . import contents as contents
from . import contrib as contrib
from . import contrib_fused as contrib_fused
from . import control as control
from . import convolution as convolution
from . import elementwise as elementwise
from . import indexing as indexing
from . import linear as linear
from . import movement as movement
from . import normalization as normalization
from . import reduction as reduction
from .rules import CONTENTS, CONTROLS, ROWS

__all__ = ["CONTENTS", "CONTROLS", "ROWS"]
