"""Predicts how ONNX Runtime 1.31 runs each node of a model on the CPU: which become integer kernels, and why not.

It replays, on a copy, what the runtime does to QuantizeLinear and DequantizeLinear when a session is made; tests
compare it with the models that sessions save (``tests/backends/test_lint.py``, ``docs/results/lint.md``).
"""

from .agree import Agreement, agree
from .observe import Observed, observe
from .report import lint

__all__ = ["Agreement", "Observed", "agree", "lint", "observe"]
