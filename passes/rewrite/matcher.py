"""Matches a pattern at a node: depth-first from the root through producers, with backtracking."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ...ir.schema import same_attr
from .pattern import ANY, KEEP, Leaf, NodePattern, Pattern, PatternValue, Result, Scalar
from .rule import Match

Goals = tuple[PatternValue | None, Value | None, Node, Any] | None


class Matcher:
    """One attempt to match ``pattern`` at ``root``. ``deepest`` and ``reason`` tell the nearest miss (traced only)."""

    __slots__ = ("bound", "deepest", "leaves", "nodes", "pattern", "reason", "root", "trace")

    def __init__(self, pattern: Pattern, root: Node, trace: bool = False) -> None:
        self.pattern = pattern
        self.root = root
        self.trace = trace
        self.leaves: dict[str, Any] = {}
        self.bound: dict[NodePattern, Node] = {}
        self.nodes: dict[Node, NodePattern] = {}
        self.deepest = 0
        self.reason = ""

    def match(self) -> Match | None:
        """The match, or ``None``."""
        if not self._node(self.pattern.root, self.root, None):
            return None
        bindings = dict(self.leaves)
        for pattern, node in self.bound.items():
            if pattern.bind is not None:
                bindings[pattern.bind] = node
        return Match(self.root, bindings, list(self.nodes))

    def _miss(self, reason: str) -> bool:
        if self.trace and len(self.bound) >= self.deepest:
            self.deepest, self.reason = len(self.bound), reason
        return False

    # -- nodes

    def _node(self, p: NodePattern, node: Node, rest: Goals) -> bool:
        """Whether ``node`` fits ``p`` and then all remaining goals hold; undoes its bindings where not."""
        before = self.bound.get(p)
        if before is not None:
            return self._solve(rest) if before is node else self._miss(f"{p} would be two different nodes")
        if (node.domain, node.op) not in p.ops:
            return self._miss(f"{_line(node)} is not {p}") if self.trace else False
        if node in self.nodes:
            return self._miss(f"{_line(node)} stands for two nodes of the pattern")
        if not self._attrs(p, node) or not self._arity(p, node):
            return False
        self.bound[p] = node
        self.nodes[node] = p
        if self.trace:
            self.deepest = max(self.deepest, len(self.bound))
        if self._operands(p, node, rest):
            return True
        del self.bound[p], self.nodes[node]
        return False

    def _operands(self, p: NodePattern, node: Node, rest: Goals) -> bool:
        wanted, given = p.inputs, node.inputs
        if p.commutes and len(given) == 2:
            a, b = given
            if self._solve((wanted[0], a, node, (wanted[1], b, node, rest))):
                return True
            return a is not b and self._solve((wanted[0], b, node, (wanted[1], a, node, rest)))
        goals = rest
        for i in range(len(wanted) - 1, -1, -1):
            goals = (wanted[i], given[i] if i < len(given) else None, node, goals)
        return self._solve(goals)

    def _attrs(self, p: NodePattern, node: Node) -> bool:
        for name, want in p.attrs.items():
            if want is ANY or want is KEEP:
                continue
            have = node.attr(name)
            if have is None and want is None:
                continue
            if have is None or want is None or not same_attr(_listed(want), have):
                return self._miss(f"{name} is {have}, the pattern wants {want}")
        if p.open_attrs or not node.attrs:
            return True
        for name, have in node.attrs.items():
            if name not in p.attrs and not _is_default(node, name, have):
                return self._miss(f"{name} is {have}, the pattern wants {_default(node, name)}")
        return True

    def _arity(self, p: NodePattern, node: Node) -> bool:
        given = len(node.inputs)
        if given > len(p.inputs) and any(v is not None for v in node.inputs[len(p.inputs) :]):
            return self._miss(f"{node.op} has {given} operands, the pattern wants {len(p.inputs)}")
        if given < p.min_inputs:
            return self._miss(f"{node.op} has {given} operands, the pattern wants {p.min_inputs}")
        if len(node.outputs) > p.outputs and any(v.uses for v in node.outputs[p.outputs :]):
            return self._miss(f"{node.op} uses {len(node.outputs)} results, the pattern wants {p.outputs}")
        return True

    # -- goals

    def _solve(self, goals: Goals) -> bool:
        if goals is None:
            return self._private()
        want, value, user, rest = goals
        if want is None:
            return (
                self._solve(rest) if value is None else self._miss(f"{user.op} has an operand the pattern wants absent")
            )
        if isinstance(want, Result):
            node = value.producer if value is not None else None
            if node is None or node.graph is not self.root.graph:
                return (
                    self._miss(f"{_name(value)} is not computed by {want.node} in this graph") if self.trace else False
                )
            if value is None or value.index != want.index:
                return self._miss(f"{_name(value)} is another result of {node.op}")
            return self._node(want.node, node, rest)
        if isinstance(want, Scalar):
            return self._scalar(want, value, user, rest)
        assert isinstance(want, Leaf)
        return self._leaf(want, value, rest)

    def _leaf(self, want: Leaf, value: Value | None, rest: Goals) -> bool:
        if want.name in self.leaves:
            return (
                self._solve(rest) if self.leaves[want.name] is value else self._miss(f"{want.name} would be two values")
            )
        if value is None and not want.optional:
            return self._miss(f"operand {want.name} is absent")
        if want.const and value is not None and value.data is None:
            return self._miss(f"{want.name} = {_name(value)} is not a constant") if self.trace else False
        self.leaves[want.name] = value
        if self._solve(rest):
            return True
        del self.leaves[want.name]
        return False

    def _scalar(self, want: Scalar, value: Value | None, user: Node, rest: Goals) -> bool:
        found = scalar_value(value, user)
        if found is None:
            return self._miss(f"{_name(value)} is not a scalar constant") if self.trace else False
        if want.value is not None and not close(
            found, want.value, want.ulps, value.dtype if value is not None else None
        ):
            return self._miss(f"{_name(value)} is {found!r}, the pattern wants {want.value!r}")
        if want.name:
            if want.name in self.leaves and self.leaves[want.name] != found:
                return self._miss(f"{want.name} would be two numbers")
            fresh = want.name not in self.leaves
            self.leaves[want.name] = found
            if self._solve(rest):
                return True
            if fresh:
                del self.leaves[want.name]
            return False
        return self._solve(rest)

    def _private(self) -> bool:
        """Whether no inner result has a user outside the match."""
        for node, p in self.nodes.items():
            if node is self.root or p.shared:
                continue
            for out in node.outputs:
                for user, _ in out.uses:
                    if user not in self.nodes:
                        return self._miss(f"{_name(out)} has another user: {_line(user)}") if self.trace else False
        return True


def scalar_value(value: Value | None, user: Node) -> Any:
    """The one element of a constant that, as an operand of ``user``, cannot raise the result's rank; else ``None``."""
    data = value.data if value is not None else None
    if value is None or data is None or data.count != 1 or data.dtype is DType.STRING:
        return None
    if data.shape:
        others = [v.rank for v in user.inputs if v is not None and v is not value]
        if not any(rank is not None and rank >= len(data.shape) for rank in others):
            return None
    return data.numpy().reshape(-1)[0].item()


def close(found: Any, wanted: float, ulps: float, dtype: DType | None) -> bool:
    """Whether ``found`` is ``wanted`` up to rounding to ``dtype`` (floats) or exactly (everything else)."""
    if found == wanted:
        return True
    if dtype is None or not dtype.is_float or not isinstance(found, float) or not np.isfinite(found) or wanted == 0:
        return False
    bits = {DType.F64: 52, DType.F32: 23, DType.F16: 10, DType.BF16: 7}.get(dtype, 2)
    # A float64 constant with the digits of float32 is another number: results would move by millions of roundings.
    return abs(found - wanted) <= ulps * abs(wanted) * 2.0**-bits


def _is_default(node: Node, name: str, have: Any) -> bool:
    default = _default(node, name)
    return default is not None and same_attr(default, have)


def _default(node: Node, name: str) -> Any:
    from ...ir.ops import node_schema
    from ...ir.schema import ABSENT

    s = node_schema(node)
    spec = s.attrs.get(name) if s is not None else None
    return None if spec is None or spec.default is ABSENT else spec.default


def _listed(want: Any) -> Any:
    return tuple(want) if isinstance(want, list) else want  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _name(value: Value | None) -> str:
    return "an absent operand" if value is None else f"%{value.name}"


def _line(node: Node) -> str:
    return repr(node) if not node.is_return else "the graph's return"
