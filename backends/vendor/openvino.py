"""OpenVINO 2026 on x86-64 processors: low-precision transformations.

Operators run on integers where activations are u8 with one scale and weights i8 per channel; dequantization travels
through the operators that the rules list, any other runs in its original precision. Zero points and 16 bits cost the
integer kernels. Source: OpenVINO's ``low_precision_transformations`` and the plugin's ``lpt`` callback; compared with
the precisions of the compiled model in ``tests/backends/test_vendor.py`` where OpenVINO is installed.
"""

from __future__ import annotations

from ...ir.graph import Model, Node
from ...passes.shared.quant.rules import QuantRules, rules_for
from ...passes.target import Target
from .. import pairs as p
from ..findings import LintReport
from .units import Special, check, scale_numbers


def lint(model: Model, target: Target) -> LintReport:
    """Findings about ``model``."""
    return check(model, target, rules_for(target), Special(_pair, integer_operators="warning"))


def _pair(node: Node, rules: QuantRules) -> tuple[str, str, str] | None:
    del rules
    if p.stored(node) in p.WIDE:
        return "16-bit", f"{node.op} of {p.stored(node)}: 65536 levels run in floats", "warning"
    if scale_numbers(node) is None:
        return "scale-not-constant", f"the scale of {node.op} is computed", "warning"
    return None
