"""How two models differ: operators, nodes matched by name and by structure, and the text."""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from ..ir.constants import Constant
from ..ir.graph import Attr, Graph, Model, Node, Value
from ..ir.text.printer import print_node
from .document import SCHEMA, Document, Table, Text
from .validate import AnyModel, as_model, interface_problems


@dataclass
class Difference:
    """What distinguishes model ``b`` from model ``a``. Nodes are compared over all bodies and functions."""

    ops: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Operators whose counts differ."""
    interface: list[str] = field(default_factory=list[str])
    same: int = 0
    """Nodes that compute the same from the same, whatever their names."""
    changed: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Nodes of one name in both that compute something else, as text."""
    removed: list[str] = field(default_factory=list[str])
    added: list[str] = field(default_factory=list[str])
    text: list[str] = field(default_factory=list[str])
    """A unified diff of the textual forms, where asked for."""

    @property
    def equal(self) -> bool:
        """Whether both have the same nodes over the same inputs and constants (names and order aside)."""
        return not (self.ops or self.interface or self.changed or self.removed or self.added)

    def to_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "equal": self.equal, **asdict(self)}

    def document(self) -> Document:
        return list(_document(self))


def diff(a: AnyModel, b: AnyModel, *, text: bool = False) -> Difference:
    """Compares two models (paths, bytes, or graphs). ``text`` adds a diff of their text. Raises ``ReadError``."""
    left, right = as_model(a)[0], as_model(b)[0]
    found = Difference(interface=interface_problems(left, right))
    counts = [Counter(_op(n) for n in model.all_nodes()) for model in (left, right)]
    for op in sorted({*counts[0], *counts[1]}):
        if counts[0][op] != counts[1][op]:
            found.ops[op] = (counts[0][op], counts[1][op])
    _match(found, _structure(left), _structure(right))
    if text:
        lines = difflib.unified_diff(str(left).splitlines(), str(right).splitlines(), "a", "b", lineterm="")
        found.text = list(lines)
    return found


def _op(node: Node) -> str:
    return f"{node.domain}:{node.op}" if node.domain else node.op


def _match(found: Difference, left: dict[Node, str], right: dict[Node, str]) -> None:
    """First by structure, then by name, the rest is removed or added."""
    open_right: dict[str, list[Node]] = {}
    for node, key in right.items():
        open_right.setdefault(key, []).append(node)
    rest: list[Node] = []
    for node, key in left.items():
        partners = open_right.get(key)
        if partners:
            partners.pop(0)
            found.same += 1
        else:
            rest.append(node)
    unmatched = [node for nodes in open_right.values() for node in nodes]
    order = {node: i for i, node in enumerate(right)}
    by_name = {node.name: node for node in sorted(unmatched, key=order.__getitem__) if node.name}
    paired: set[Node] = set()
    for node in rest:
        partner = by_name.pop(node.name, None) if node.name else None
        if partner is None:
            found.removed.append(print_node(node))
        else:
            paired.add(partner)
            found.changed.append((print_node(node), print_node(partner)))
    found.added = [print_node(n) for n in sorted(unmatched, key=order.__getitem__) if n not in paired]


def _structure(model: Model) -> dict[Node, str]:
    """A hash of what every node computes: operator, attributes, and hashes of its operands."""
    keys: dict[Node, str] = {}
    values: dict[Value, str] = {}
    for root in model.roots():
        for graph in root.all_graphs():
            for i, value in enumerate(graph.inputs):
                values[value] = f"input {value.name}" if graph.parent is None else f"body input {i}"
            for value in graph.constants:
                values[value] = f"constant {value.data.digest()}" if value.data is not None else "constant"
    for root in model.roots():
        _hash_graph(root, keys, values)
    return keys


def _hash_graph(root: Graph, keys: dict[Node, str], values: dict[Value, str]) -> None:
    # Outer nodes first: bodies capture outer values. What a body computes enters its node's hash as text.
    for node in root.all_nodes():
        parts = [_op(node), *(values.get(v, "later") if v is not None else "-" for v in node.inputs)]
        parts += [f"{name}={_attr_text(attr)}" for name, attr in sorted(node.attrs.items())]
        key = hashlib.blake2b("\n".join(parts).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        keys[node] = key
        for i, out in enumerate(node.outputs):
            values[out] = f"{key}.{i}"


def _attr_text(attr: Attr) -> str:
    if isinstance(attr, tuple):
        return "[" + ",".join(_attr_text(item) for item in attr) + "]"
    if isinstance(attr, Graph):
        return f"body of {attr.count} nodes: {' '.join(_op(n) for n in attr.all_nodes())}"
    return attr.digest() if isinstance(attr, Constant) else repr(attr)


def _document(d: Difference) -> Document:
    total = f"{d.same} nodes are the same, {len(d.changed)} changed, {len(d.removed)} removed, {len(d.added)} added"
    document: Document = [Text("no difference" if d.equal else total, "bold")]
    document.extend(Text(f"interface: {problem}", "red") for problem in d.interface)
    if d.ops:
        rows = [(op, str(x), str(y)) for op, (x, y) in d.ops.items()]
        document.append(Table("operators", ("operator", "a>", "b>"), rows))
    for title, lines in (("removed", d.removed), ("added", d.added)):
        if lines:
            document.append(Text(f"\n{title}"))
            document.extend(Text(f"  {line}", "red" if title == "removed" else "green") for line in lines[:LINES])
            document.extend([Text(f"  ... {len(lines) - LINES} more")] if len(lines) > LINES else [])
    if d.changed:
        document.append(Text("\nchanged"))
        for before, after in d.changed[:LINES]:
            document += [Text(f"  - {before}", "red"), Text(f"  + {after}", "green")]
        document.extend([Text(f"  ... {len(d.changed) - LINES} more")] if len(d.changed) > LINES else [])
    if d.text:
        document.append(Text("\n".join(["", *d.text])))
    return document


LINES = 40
"""Nodes listed of each kind."""
