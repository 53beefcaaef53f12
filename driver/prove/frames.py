"""What has to be shown of a rewrite, and how much of the model around it is looked at.

Nearest are the values that the rewrite left alone; a region takes in all that lies between its parts; a body may only
be right as a whole, and some rewrites only because of what follows, up to the end of the model.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...ir.graph import RETURN, Node, Value
from .cut import MAX_NODES, Frame, Obligation, collect
from .snapshot import Change, State

MAX_REGION = 600
"""Nodes behind a rewrite among which others that it changed are looked for."""


def obligations(change: Change) -> list[Obligation] | None:
    """What makes the rewrite right, at the nodes that got other operands: these are equal one by one.

    Of nodes that became others the results are. ``None`` where it cannot be said value by value.
    """
    found: dict[tuple[Value, Value], None] = {}
    for node in change.changed:
        old, new = change.before.state(node), change.after.state(node)
        if old is None or new is None:
            continue
        if node.op == RETURN:
            if not _returned(change, node, old, new, found):
                return None
        elif old.same_operation(new):
            found.update(_operand_pairs(old, new))
        else:
            found.update(((v, v), None) for v in old.outputs if v in new.outputs and v.uses)
    return [Obligation(a, b) for a, b in found]


def _returned(change: Change, node: Node, old: State, new: State, found: dict[tuple[Value, Value], None]) -> bool:
    """Adds what a return node demands; ``False`` where it returns more or less than before."""
    if len(old.inputs) == len(new.inputs):
        found.update(_operand_pairs(old, new))
        return True
    parent = node.graph.parent if node.graph is not None else None
    return parent is not None and parent in change.changed  # the node that runs the body is compared


def _operand_pairs(old: State, new: State) -> dict[tuple[Value, Value], None]:
    pairs = zip(old.inputs, new.inputs, strict=True)
    return {(a, b): None for a, b in pairs if a is not b and a is not None and b is not None}


def first_frame(change: Change) -> Frame | None:
    """The smallest frame; ``None`` where the cut would be too large."""
    pairs = obligations(change)
    frame = Frame(change, pairs or [])
    return frame if pairs is not None and collect(frame) else None


def region_frame(change: Change) -> Frame | None:
    """The frame for a rewrite that changes values on the way: all between the changed nodes is in it, and what leaves
    that region must be equal. ``None`` where it would be too large."""
    region = _region(change)
    if region is None:
        return None
    found: dict[tuple[Value, Value], None] = {}
    for node in region:
        old, new = change.before.state(node), change.after.state(node)
        if old is None or new is None:
            continue
        if node.op == RETURN:
            if not _returned(change, node, old, new, found):
                return None
            continue
        for v in new.outputs:
            if any(user not in region or (user.op == RETURN and v in _returns(change, user)) for user, _ in v.uses):
                if v not in old.outputs:
                    return None
                found[v, v] = None
    inner = {v for node in region for v in node.outputs}
    frame = Frame(change, [Obligation(a, b) for a, b in found], inner=inner)
    return frame if found and collect(frame) else None


def _returns(change: Change, ret: Node) -> list[Value | None]:
    """What a return node returned before and returns now, at the same place."""
    old, new = change.before.state(ret), change.after.state(ret)
    if old is None or new is None:
        return []
    return [b for a, b in zip(old.inputs, new.inputs, strict=False) if a is b]


def _region(change: Change) -> dict[Node, None] | None:
    """The changed nodes that are there now, and all nodes between them; ``None`` for too many."""
    start = [node for node in change.changed if change.after.state(node) is not None]
    reached = _reached(start, MAX_REGION)
    between = dict.fromkeys(start)
    stack = list(start)
    while stack:
        node = stack.pop()
        for v in node.inputs:
            producer = v.producer if v is not None else None
            if producer is not None and producer in reached and producer not in between:
                between[producer] = None
                stack.append(producer)
    return between if len(between) <= MAX_NODES else None


def _reached(start: Iterable[Node], most: int) -> dict[Node, None]:
    """The nodes and all that use their results, more than ``most`` at the worst by those of one node."""
    found = dict.fromkeys(start)
    queue = list(found)
    for node in queue:
        if len(queue) > most:
            break
        for user in [user for out in node.outputs for user, _ in out.uses]:
            if user not in found:
                found[user] = None
                queue.append(user)
    return found


def outer_frame(change: Change) -> Frame | None:
    """The frame for a rewrite inside bodies that is right only by what runs them: those nodes as a whole."""
    parents = {top: None for node in change.changed for top in [_outermost(change, node)] if top is not node}
    whole = [node for node in parents if node is not None and _in_both(change, node)]
    pairs = obligations(_outside(change, set(whole)))
    if not whole or len(whole) < len(parents) or pairs is None:
        return None
    results = [v for node in whole for v in node.outputs if v.uses]
    known = {(p.old, p.new) for p in pairs}
    pairs += [Obligation(v, v) for v in results if (v, v) not in known]
    frame = Frame(change, pairs, inner=set(results))
    return frame if pairs and collect(frame) else None


def end_frame(change: Change) -> Frame | None:
    """The frame with all that follows, for a branch that was taken because of it. ``None`` where that is too much."""
    if not any(
        state.op == "If" for node in change.changed for state in [change.before.state(node)] if state is not None
    ):
        return None
    tops = [_outermost(change, node) for node in change.changed]
    reached = _reached([n for n in tops if n is not None and change.after.state(n) is not None], MAX_NODES)
    if len(reached) > MAX_NODES:
        return None
    ends = [n for n in reached if n.op == RETURN and n.graph is not None and n.graph.parent is None]
    pairs: list[Obligation] = []
    for node in ends:
        old, new = change.before.state(node), change.after.state(node)
        if old is None or new is None or len(old.inputs) != len(new.inputs):
            return None
        operands = zip(old.inputs, new.inputs, strict=True)
        pairs += [Obligation(a, b) for a, b in operands if a is not None and b is not None and b.producer in reached]
    frame = Frame(change, pairs, inner={v for node in reached for v in node.outputs})
    return frame if pairs and collect(frame) else None


def _outermost(change: Change, node: Node) -> Node | None:
    """The node of an outermost graph that runs the body in which the node stands, or stood: itself outside of any."""
    state = change.after.state(node) or change.before.state(node)
    graph = state.graph if state is not None else None
    while graph is not None and graph.parent is not None:
        node, graph = graph.parent, graph.parent.graph
    return None if graph is None else node


def _in_both(change: Change, node: Node) -> bool:
    return change.before.state(node) is not None and change.after.state(node) is not None


def _outside(change: Change, parents: set[Node]) -> Change:
    """The part of a rewrite that is not in the bodies of ``parents``."""
    rest = [n for n in change.changed if _outermost(change, n) not in parents]
    return Change(change.label, change.before, change.after, rest)
