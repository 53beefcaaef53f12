"""inline-functions: a call of a model-local function becomes the function's body.

Operands take the place of formal inputs, the caller's attributes (or the function's defaults) the place of
references to attributes.

**Why**    passes look at one graph at a time; what is inside a function is out of their sight, and shared by
           callers that may need different things.
**Needs**  that the caller's imports mean the same operators as the function's.
**Leaves** a function that imports other versions of operators it uses, where those differ; calls beyond
           ``max-nodes`` nodes in all (nested calls can grow exponentially).
**Numbers** exact.
**Source** ONNX IR specification, FunctionProto.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.clone import clone_graph
from ...ir.errors import ModelError
from ...ir.graph import Function, Graph, Model, Node, Value
from ...ir.infer import infer_node
from ...ir.ops import function_of
from ...ir.schema import schema
from ..core import Pass
from ..rewrite.rewriter import Rewriter, origin_of
from ..shared.attributes import resolve_attributes
from ..shared.bodies import splice


@dataclass
class InlineFunctions(Pass):
    """Replaces calls of model-local functions by their bodies."""

    max_nodes: int = 1 << 20
    """Nodes of the model beyond which nothing more is inlined."""

    def run(self, model: Model, r: Rewriter) -> None:
        if not model.functions:
            return
        total = sum(1 for _ in model.all_nodes())
        # Callees first: then a call is replaced by a body without calls, and the main graph needs one sweep.
        for graph in [f.graph for f in callees_first(model)] + [model.graph]:
            for node in [n for n in graph.all_nodes() if function_of(n) is not None]:
                function: Function = function_of(node)
                reason = self._reason(node, function, total)
                if reason is not None:
                    r.ctx.note(f"{node.op} {node.name!r} is not inlined: {reason}")
                elif r.allow(node):
                    total += sum(1 for _ in function.graph.all_nodes())
                    inline(node, function, r)

    def _reason(self, node: Node, function: Function, total: int) -> str | None:
        assert node.graph is not None
        size = sum(1 for _ in function.graph.all_nodes())
        if total + size > self.max_nodes:
            return f"the model would have {total + size} nodes, the limit is {self.max_nodes}"
        if any(
            out in function.graph.inputs and node.input(function.graph.inputs.index(out)) is None
            for out in function.graph.outputs
        ):
            return "it returns an operand that is absent"
        return incompatible(function.graph, node.graph)


def callees_first(model: Model) -> list[Function]:
    """Functions so that each comes behind those that it calls (the reader refuses recursion)."""
    order: dict[Function, None] = {}
    for start in model.functions.values():
        stack = [start]
        while stack:
            function = stack[-1]
            waiting = [
                f
                for n in function.graph.all_nodes()
                if (f := function_of(n)) is not None and f not in order and f not in stack
            ]
            if waiting:
                stack.append(waiting[0])
            else:
                order[stack.pop()] = None
    return list(order)


def incompatible(body: Graph, caller: Graph) -> str | None:
    """Why the caller's imports do not mean the same as the body's, if so."""
    for node in body.all_nodes():
        own, theirs = body.opsets.get(node.domain), caller.opsets.get(node.domain)
        if own is None or theirs is None or own == theirs:
            continue
        a, b = schema(node.domain, node.op, own), schema(node.domain, node.op, theirs)
        if a is None or b is None or a.since != b.since:
            return (
                f"{node.op} means version {own} of {node.domain or 'ai.onnx'!r} in the function, {theirs} in the caller"
            )
    return None


def inline(call: Node, function: Function, r: Rewriter) -> None:
    """Puts a copy of the body in place of the call."""
    assert call.graph is not None
    body = clone_graph(function.graph)
    for domain, version in body.opsets.items():
        call.graph.opsets.setdefault(domain, version)
    for i, formal in enumerate(body.inputs):
        bind(formal, call.input(i))
    origin = origin_of([call])
    nodes = list(body)
    for node in body.all_nodes():
        resolve_attributes(node, call, function)
        node.origin = origin
        node.name = f"{call.name}/{node.name}" if call.name and node.name else node.name
        for out in node.outputs:
            out.name = f"{call.name}/{out.name}" if call.name else out.name
    r.begin(call)
    returned = splice(body, call, r)
    for node in nodes:
        try:
            infer_node(node)
        except ModelError:  # the types of a call that contradicts the body stay unknown, as before
            continue
    r.replace(call, returned)
    body.ret.drop_uses()


def bind(formal: Value, actual: Value | None) -> None:
    """Makes the users of a formal input take the operand, or nothing where it is absent."""
    if actual is not None:
        formal.replace_uses(actual)
        return
    for node, i in list(formal.uses):
        node.set_input(i, None)
