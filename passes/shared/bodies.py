"""Bodies of If, Loop and Scan: taking results off them, and putting their nodes into the graph around them."""

from __future__ import annotations

from ...ir.graph import Graph, Node, Value
from ...ir.ops import is_removable
from ..rewrite.rewriter import Rewriter


def body_of(node: Node, attr: str = "body") -> Graph:
    """The body under an attribute, which must be there."""
    found = node.attrs[attr]
    assert isinstance(found, Graph)
    return found


def drop_results(node: Node, r: Rewriter) -> None:
    """Takes results off an If, and scanned results off a Scan, that nothing uses."""
    if node.op == "If":
        bodies, offset, first = [body_of(node, "then_branch"), body_of(node, "else_branch")], 0, 0
    else:
        body = body_of(node)
        scanned = node.attr("num_scan_inputs", 0)
        states = len(body.inputs) - scanned
        # Scan-8 has sequence lengths and a batch; its attributes follow other rules.
        if node.version < 9 or "scan_output_directions" in node.attrs or "scan_output_axes" in node.attrs:
            return
        bodies, offset, first = [body], 0, states
    for i in reversed(range(first, len(node.outputs))):
        # At least one result stays: an If without results is not a valid node.
        if not node.outputs[i].uses and len(node.outputs) > 1 and r.allow(node):
            for body in bodies:
                drop_returned(body, i + offset, r)
            r.drop_output(node, i)


def drop_loop_results(node: Node, r: Rewriter) -> None:
    """Takes unused scanned results off a Loop, and carried values that only feed themselves."""
    body = body_of(node)
    carried = len(node.inputs) - 2
    if len(body.inputs) != carried + 2 or len(body.outputs) != len(node.outputs) + 1:
        return
    for i in reversed(range(len(node.outputs))):
        if node.outputs[i].uses or len(node.outputs) == 1:
            continue
        if i >= carried:
            if r.allow(node):
                drop_returned(body, i + 1, r)
                r.drop_output(node, i)
        elif feeds_only_itself(body, body.inputs[i + 2], i + 1) and r.allow(node):
            drop_returned(body, i + 1, r)
            body.remove_input(body.inputs[i + 2])
            r.set_inputs(node, [v for k, v in enumerate(node.inputs) if k != i + 2])
            r.drop_output(node, i)


def drop_returned(body: Graph, position: int, r: Rewriter) -> None:
    """Takes one returned value off a body, with what it alone needed."""
    ports = [p for k, p in enumerate(body.ports) if k != position]
    r.set_inputs(body.ret, [v for k, v in enumerate(body.outputs) if k != position])
    body.ports = ports


def feeds_only_itself(body: Graph, value: Value, position: int) -> bool:
    """Whether what is computed from a body's input goes nowhere but to the body's result at ``position``."""
    stack, seen = [value], {value}
    while stack:
        for user, i in stack.pop().uses:
            if user is body.ret:
                if i != position:
                    return False
            elif user.graph is not body or not is_removable(user):
                return False
            else:
                fresh = [out for out in user.outputs if out not in seen]
                seen.update(fresh)
                stack.extend(fresh)
    return True


def splice(body: Graph, at: Node, r: Rewriter) -> list[Value]:
    """Moves the nodes and constants of a body in front of ``at``; returns what the body returned."""
    assert at.graph is not None
    root = at.graph.root
    for value in list(body.constants):
        r.move_constant(value, root)
    for node in list(body):
        node.move_before(at)
        r.touched.append(node)
    r.changes += 1
    return list(body.outputs)
