"""hoist-invariants: what is the same in every round of a Loop or Scan is computed once, in front of it.

    loop: y = f(x, g(w))  =  v = g(w); loop: y = f(x, v)            w from outside the loop

Values that a loop only hands on are invariant too: what reads them reads the value from outside, and
``eliminate-dead-code`` then takes them off the loop.

**Why**    recurrent cells carry transposed weights, masks and shapes of constants in their bodies; exporters hand
           all weights through the loop, where no pass sees that they are constant.
**Needs**  a pure operator of values from outside; a body that runs at least once, or an operator that cannot fail
           (in a loop of no rounds it was never asked to).
**Leaves** nodes in the branches of an If, which may not run; random operators; operators with bodies; divisions of
           integers, lookups and reshapes in loops that may have no rounds.
**Numbers** exact.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.dims import is_static, same_dim
from ...ir.dtypes import DType
from ...ir.graph import Graph, Model, Node, Value
from ...ir.ops import ELEMENTWISE, is_pure
from ..core import Pass
from ..rewrite.rewriter import Rewriter
from ..shared.bodies import body_of

_SAFE = frozenset({"Transpose", "Shape", "Size", "Unsqueeze", "Softmax", "LogSoftmax", "Identity", "Flatten"})
"""Operators of one tensor that cannot fail on any elements."""


@dataclass
class HoistInvariants(Pass):
    """See the module."""

    def run(self, model: Model, r: Rewriter) -> None:
        # Bodies before what is around them: a node may leave several loops.
        for graph in reversed(list(model.all_graphs())):
            for node in list(graph):
                if node.domain == "" and node.op in ("Loop", "Scan") and node.version != 8:
                    _bypass(node, r)
                    _hoist(node, r)


def _hoist(loop: Node, r: Rewriter) -> None:
    """Moves invariant nodes of the body in front of the loop, those that others need first."""
    body = body_of(loop)
    runs = _runs(loop)
    for node in list(body):
        if not _is_invariant(node, body):
            continue
        reason = _objection(node, runs)
        if reason:
            r.ctx.note(f"{node.op}: {reason}")
        elif r.allow(node):
            for value in node.inputs:
                if value is not None and value.graph is body and value.data is not None and loop.graph is not None:
                    r.move_constant(value, loop.graph.root)
            node.move_before(loop)
            r.touched.append(node)
            r.changes += 1


def _is_invariant(node: Node, body: Graph) -> bool:
    return all(v is None or v.data is not None or not _belongs(v, body) for v in node.inputs)


def _belongs(value: Value, body: Graph) -> bool:
    """Whether ``value`` is an input of the body or computed in it."""
    return (value.producer.graph if value.producer is not None else value.graph) is body


def _objection(node: Node, runs: bool) -> str:
    """Why an invariant node stays; empty where it may leave."""
    if node.attrs and node.subgraphs:
        return "it has a body of its own"
    if not is_pure(node):
        return "two runs may differ"
    return "" if runs or _cannot_fail(node) else "the loop may have no rounds, and the operator may fail"


def _runs(loop: Node) -> bool:
    """Whether the body is known to run at least once."""
    if loop.op == "Loop":
        rounds, condition = loop.input(0), loop.input(1)
        counted = rounds is None or (rounds.data is not None and int(rounds.numpy().reshape(-1)[0]) > 0)
        return counted and (condition is None or (condition.data is not None and bool(condition.numpy().all())))
    scanned = loop.attr("num_scan_inputs", 0)
    axes = loop.attrs.get("scan_input_axes")
    for i, value in enumerate(loop.inputs[len(loop.inputs) - scanned :]):
        axis = axes[i] if isinstance(axes, tuple) else 0
        extent = value.shape[axis] if value is not None and value.shape and isinstance(axis, int) else None
        if isinstance(extent, int) and extent > 0:
            return True
    return False


def _cannot_fail(node: Node) -> bool:
    """Whether the operator succeeds on all operands of the known types."""
    shape = node.outputs[0].shape
    if node.domain or shape is None or any(v is None or v.shape is None for v in node.inputs):
        return False
    if any(v is not None and v.dtype in (DType.STRING, None) for v in (*node.inputs, *node.outputs)):
        return False
    if node.op in _SAFE:
        return True
    if node.op == "MatMul":
        return all(v is not None and is_static(v.shape) for v in node.inputs)
    if ("", node.op) not in ELEMENTWISE:
        return False
    dtype = node.outputs[0].dtype
    if node.op in ("Div", "Mod", "Pow", "BitShift") and not (dtype is not None and dtype.is_float):
        return False
    return all(v is not None and _broadcasts(v, node.outputs[0]) for v in node.inputs)


def _broadcasts(v: Value, out: Value) -> bool:
    a, b = v.shape or (), out.shape or ()
    pairs = zip(reversed(a), reversed(b), strict=False)
    return len(a) <= len(b) and all(d == 1 or same_dim(d, e) for d, e in pairs)


# -- values that are only handed on


def _bypass(loop: Node, r: Rewriter) -> None:
    """Reads from outside what every round hands on unchanged."""
    body = body_of(loop)
    front, behind = (2, 1) if loop.op == "Loop" else (0, 0)
    states = len(loop.inputs) - 2 if loop.op == "Loop" else len(loop.inputs) - loop.attr("num_scan_inputs", 0)
    if len(body.inputs) < front + states or len(body.outputs) < behind + states:
        return
    for i in range(states):
        inside, outside, result = body.inputs[front + i], loop.inputs[front + i], loop.outputs[i]
        if outside is None or body.outputs[behind + i] is not inside:
            continue
        readers = [(user, k) for user, k in inside.uses if user is not body.ret]
        if (readers or result.uses) and r.allow(loop):
            for user, k in readers:
                r.set_input(user, k, outside)
            if result.uses:
                r.replace_value(result, outside)
