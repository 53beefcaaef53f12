"""The command line: thin, since everything it does is a function of ``planish``.

Standard output carries the report, or JSON with ``--json``, and nothing else; progress and errors go to standard
error. Exit codes: 0 done (``optimize``: written and found equivalent), 1 not equivalent or an error of the
model, 2 wrong usage, 70 an internal error, 130 interrupted.
"""

from __future__ import annotations

from . import calibration, commands, kernels, memory, quantized, trust
from .entry import main, run
from .shared import app

__all__ = ["app", "calibration", "commands", "kernels", "main", "memory", "quantized", "run", "trust"]
