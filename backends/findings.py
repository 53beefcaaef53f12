"""What a linter says of a quantized model: how the runtime will run each node, and why not on integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from ..ir.graph import Model, Node


class Runs(Enum):
    """How a node is executed."""

    INTEGER = "integer"
    """By a kernel that computes on the stored integers."""
    ABSORBED = "absorbed"
    """Not at all: the range of the QuantizeLinear behind it does its work."""
    FLOAT = "float"
    """In floats although its operands or results are quantized: the pairs around it only cost time."""
    PLAIN = "plain"
    """In floats, and nothing around it is quantized."""
    GONE = "gone"
    """Not at all: computed once when the model is loaded, or without effect."""


@dataclass(frozen=True)
class Finding:
    """One node, or with ``node`` empty the model as a whole."""

    node: str
    """Its name; the name of its first result where it has none."""
    op: str
    runs: Runs
    kernel: str = ""
    """Operator of the runtime that computes it, where that is another one."""
    rule: str = ""
    """Short name of the condition that is not met, a heading of ``docs/lint.md``."""
    why: str = ""
    """The condition with what was found."""
    severity: str = "note"
    """``error``: the runtime refuses the model or computes something else; ``warning``: slower than need be;
    ``note``."""
    place: int = -1
    """Position among all nodes of the model, bodies included; -1 for the model as a whole."""


@dataclass(frozen=True)
class LintReport:
    """Findings in the order of the nodes."""

    target: str
    findings: Sequence[Finding]
    pairs: int = 0
    """QuantizeLinear and DequantizeLinear nodes that are executed, with those that the runtime adds."""

    def count(self, runs: Runs) -> int:
        return sum(f.runs is runs and bool(f.node) for f in self.findings)

    @property
    def worst(self) -> str:
        """The highest severity there is."""
        found = {f.severity for f in self.findings}
        return next((s for s in ("error", "warning") if s in found), "note")

    def rules(self) -> Counter[str]:
        """How often each condition is not met."""
        return Counter(f.rule for f in self.findings if f.rule)


def label(node: Node) -> str:
    """How findings name a node."""
    return node.name or next((f"%{v.name}" for v in node.outputs if v.name), node.op)


def operator(node: Node) -> str:
    """The operator with its domain, as ``com.microsoft.QGemm``."""
    return f"{node.domain}.{node.op}" if node.domain else node.op


def in_floats(node: Node, rule: str, why: str, *, between: bool) -> Finding:
    """A node that is computed in floats. Where there is no kernel at all, pairs that end there are as they should be;
    ``between``: pairs on both sides."""
    severity = "note" if rule == "no-integer-kernel" and not between else "warning"
    return Finding(label(node), node.op, Runs.FLOAT, rule=rule, why=why, severity=severity)


def about_model(rule: str, why: str, severity: str = "error") -> Finding:
    """A finding that concerns no single node."""
    return Finding("", "", Runs.PLAIN, rule=rule, why=why, severity=severity)


def in_order(model: Model, found: Mapping[Node, Finding]) -> list[Finding]:
    """The findings, one a node at most, in the order of the model's nodes, each with its place."""
    return [replace(found[n], place=i) for i, n in enumerate(model.all_nodes()) if n in found]
