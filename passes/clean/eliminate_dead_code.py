"""eliminate-dead-code: what no output depends on goes.

Nodes, constants, functions that nothing calls, imports of operator sets that nothing uses; results of If,
Loop and Scan that nobody reads, with what computes them inside; loop-carried values that only feed
themselves; optional results at the end of a node's list.

**Why**    dead weights make files large, dead results cost memory in every run.
**Needs**  nothing: ONNX operators have no side effects.
**Leaves** operators that planish does not know (a runtime's own may have effects); inputs of the main graph,
           which callers name; the results of BatchNormalization before opset 14, whose number chooses training; the
           cache that attention with a past gives, which ONNX Runtime's kernels compute in.
**Numbers** exact.
**Source** ONNX IR specification: operators are pure functions of their operands and attributes.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.graph import Graph, Model, Node
from ...ir.ops import function_of, is_removable, node_schema
from ...ir.schema import Schema
from ..core import Pass
from ..rewrite.rewriter import Rewriter
from ..shared.bodies import drop_loop_results, drop_results

MAX_ROUNDS = 64


@dataclass
class EliminateDeadCode(Pass):
    """Removes what no output depends on."""

    def run(self, model: Model, r: Rewriter) -> None:
        for _ in range(MAX_ROUNDS):
            before = r.changes
            for graph in reversed(list(model.all_graphs())):
                sweep(graph, r)
            if r.changes == before or r.ctx.fuel.empty:
                break
        remove_functions(model, r)
        for graph in model.all_graphs():
            for value in [v for v in graph.constants if not v.uses]:
                if r.allow_value(value):
                    r.remove_constant(value)
        remove_imports(model, r)
        if r.ctx.trace and not r.changes:
            r.ctx.note("outputs depend on everything that may go")


def sweep(graph: Graph, r: Rewriter) -> None:
    """Users before producers, so that one sweep removes whole chains."""
    for node in reversed(graph):
        if r.ctx.fuel.empty:
            return
        if not any(out.uses for out in node.outputs):
            if not is_removable(node):
                r.ctx.note(f"{node.op} is unknown and may have effects")
            elif r.allow(node):
                r.erase(node)
            continue
        if all(out.uses for out in node.outputs):
            if node.op == "Loop" and node.attrs:
                drop_loop_results(node, r)
            continue
        if node.op in ("If", "Loop", "Scan") and node.domain == "":
            drop_loop_results(node, r) if node.op == "Loop" else drop_results(node, r)
        else:
            drop_optional(node, r)


def drop_optional(node: Node, r: Rewriter) -> None:
    """Takes unused optional results off the end of the list."""
    known = node_schema(node)
    if known is None or function_of(node) is not None or (node.op == "BatchNormalization" and node.version < 14):
        return
    while len(node.outputs) > max(1, known.min_outputs):
        last = node.outputs[-1]
        position = len(node.outputs) - 1
        if last.uses or position >= len(known.outputs) or not known.outputs[position].optional:
            return
        if _is_cache(node, known, position):
            r.ctx.note(f"{node.op} with a past has to give its {known.outputs[position].name}: kernels compute in it")
            return
        if not r.allow(node):
            return
        r.drop_output(node, position)


def _is_cache(node: Node, known: Schema, position: int) -> bool:
    """Whether the result is a cache that goes on: attention kernels refuse a past without room for the present."""
    operands = zip(known.inputs, node.inputs, strict=False)
    past = any(v is not None and param.name.startswith("past") for param, v in operands)
    return past and known.outputs[position].name.startswith("present")


def called(model: Model) -> set[tuple[str, str, str]]:
    """Keys of the functions that the main graph needs, through others too."""
    found: set[tuple[str, str, str]] = set()
    stack = [model.graph]
    while stack:
        for node in stack.pop().all_nodes():
            key = (node.domain, node.op, node.overload)
            function = model.functions.get(key)
            if function is not None and key not in found:
                found.add(key)
                stack.append(function.graph)
    return found


def remove_functions(model: Model, r: Rewriter) -> None:
    """Removes functions that nothing calls."""
    if not model.functions:
        return
    needed = called(model)
    for key in [k for k in model.functions if k not in needed]:
        if r.ctx.fuel.empty:
            return
        del model.functions[key]
        r.note_change(f"function {key[0]}::{key[1]}")


def remove_imports(model: Model, r: Rewriter) -> None:
    """Removes imports of operator sets that nothing uses; the standard one stays."""
    for graph in model.roots():
        if len(graph.opsets) < 2:
            continue
        used = {node.domain for node in graph.all_nodes()} | {""}
        if graph is model.graph:
            used |= {domain for domain, _, _ in model.functions}
        for domain in [d for d in graph.opsets if d not in used]:
            if r.ctx.fuel.empty:
                return
            del graph.opsets[domain]
            r.note_change(f"import of {domain}")
