"""Holds predictions against what a session made of the same model."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...findings import Finding, LintReport, Runs
from .observe import Observed
from .units import MOVEMENT

_PAIRS = ("QuantizeLinear", "DequantizeLinear")
_MERGED = frozenset((*MOVEMENT, "Split", "DynamicQuantizeLinear"))
"""What the runtime may merge into a neighbour on integers, so that it is not there under its name."""


@dataclass
class Agreement:
    """Counts of nodes whose operands or results are quantized, and where prediction and session differ."""

    integer: int = 0
    """Predicted and executed on integers, or absorbed and not there."""
    other: int = 0
    """Predicted and executed in floats."""
    false_integer: list[Finding] = field(default_factory=list[Finding])
    """Predicted on integers, but executed in floats."""
    false_float: list[Finding] = field(default_factory=list[Finding])
    """Predicted in floats, but executed on integers."""
    pairs: tuple[int, int] = (0, 0)
    """QuantizeLinear and DequantizeLinear nodes left: predicted, executed."""

    @property
    def judged(self) -> int:
        return self.integer + self.other + len(self.false_integer) + len(self.false_float)


def agree(report: LintReport, observed: Observed) -> Agreement:
    """How ``report`` and what was observed of the same model go together; nodes without pairs around count too."""
    found = Agreement(pairs=(report.pairs, observed.pairs))
    for finding in report.findings:
        if finding.place < 0 or finding.op in _PAIRS:
            continue
        _judge(found, finding, observed)
    return found


def _judge(found: Agreement, finding: Finding, observed: Observed) -> None:
    executed = observed.nodes.get(finding.place)
    if finding.runs is Runs.INTEGER:
        right = executed.integer if executed is not None else finding.op in _MERGED
        found.integer += right
        if not right:
            found.false_integer.append(finding)
    elif finding.runs is Runs.ABSORBED:
        found.integer += executed is None
        if executed is not None:
            found.false_integer.append(finding)
    elif executed is not None and executed.integer:
        found.false_float.append(finding)
    else:
        found.other += 1
