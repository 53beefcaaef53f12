"""eliminate-common-subexpressions: equal operators of equal operands are computed once.

A node is equal to an earlier one when operator, operands, attributes and number of results are. A node of
a graph is visible in all bodies behind it, so a body's node may be replaced by one outside, not the other
way round. Two small integer tensors are equal too when shape inference knows the same elements for both.

**Why**    exporters compute the same Shape, Cast or mask once per layer.
**Needs**  a known, deterministic operator; attributes equal to the bit, constants among them by content.
**Leaves** random operators, Dropout in training mode, unknown operators, nodes with bodies.
**Numbers** exact.
**Source** dominator-scoped hash tables: Click, "Global code motion / global value numbering", PLDI 1995.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.constants import Constant
from ...ir.graph import Graph, Model, Node, Value
from ...ir.ops import commutes, is_pure
from ...ir.types import TensorType
from ..core import Pass
from ..rewrite.rewriter import Rewriter

Key = tuple[Any, ...]


@dataclass
class EliminateCommonSubexpressions(Pass):
    """Merges equal nodes."""

    def run(self, model: Model, r: Rewriter) -> None:
        for root in model.roots():
            _Scopes(r).visit(root)


class _Scopes:
    """Nodes by key; what a body adds is forgotten at its end."""

    def __init__(self, r: Rewriter) -> None:
        self.r = r
        self.nodes: dict[Key, Node] = {}

    def visit(self, root: Graph) -> None:
        stack: list[tuple[Iterator[Node], list[Key]]] = [(iter(root), [])]
        while stack:
            nodes, added = stack[-1]
            node = next(nodes, None)
            if node is None:
                for key in added:
                    self.nodes.pop(key, None)
                stack.pop()
                continue
            self._node(node, added)
            if not node.erased and node.attrs:
                stack.extend((iter(body), []) for body in reversed(node.subgraphs))

    def _node(self, node: Node, added: list[Key]) -> None:
        trace = self.r.ctx.trace
        for find in (node_key, elements_key):
            key = find(node)
            if key is None:
                if trace and find is node_key:
                    self.r.ctx.note(f"{node.op} may give something else the second time, is unknown, or has a body")
                continue
            if trace and key not in self.nodes:
                self.r.ctx.note(f"nothing visible is equal to {node!r}")
            first = self.nodes.get(key)
            if first is None or first.erased:  # erased: only a node needed it that another one stands for now
                self.nodes[key] = node
                added.append(key)
            elif same_annotations(first, node) and self.r.allow(node):
                self.r.replace(node, first.outputs)
                return


def node_key(node: Node) -> Key | None:
    """Equal for nodes that compute the same; ``None`` for a node that must stay by itself."""
    if not is_pure(node):
        return None
    operands = [id(v) for v in node.inputs]
    while operands and operands[-1] == id(None):
        operands.pop()
    if commutes(node) and node.op not in ("Max", "Min"):  # of two zeros these return one by their order
        operands.sort()
    attrs: list[Key] = []
    if node.attrs:
        for name in sorted(node.attrs):
            key = attr_key(node.attrs[name])
            if key is None:
                return None
            attrs.append((name, key))
    return (node.op, node.domain, node.overload, len(node.outputs), *operands, *attrs)


def attr_key(attr: Any) -> Any:
    """Equal for equal attributes (floats by their bits); ``None`` for one with a body."""
    if type(attr) is int:
        return ("int", attr)
    if isinstance(attr, float):
        return ("f", np.float32(attr).tobytes())
    if isinstance(attr, tuple):
        keys = [attr_key(a) for a in attr]  # pyright: ignore[reportUnknownVariableType]
        return None if None in keys else ("t", *keys)
    if isinstance(attr, Constant):
        return ("c", attr.digest())
    if isinstance(attr, Graph):
        return None
    return (type(attr).__name__, attr)


def elements_key(node: Node) -> Key | None:
    """Equal for small integer tensors that hold the same extents in every run."""
    if len(node.outputs) != 1:
        return None
    out = node.output
    if out.known is None or None in out.known or not is_pure(node):
        return None
    return ("elements", out.dtype, out.rank, out.known)


def same_annotations(a: Node, b: Node) -> bool:
    """Whether layout and quantization of all results agree."""
    return all(_annotation(x) == _annotation(y) for x, y in zip(a.outputs, b.outputs, strict=True))


def _annotation(value: Value) -> Any:
    t = value.type
    return (t.layout, t.quant) if isinstance(t, TensorType) else None
