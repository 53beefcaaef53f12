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
from .checks.validate import AnyModel, as_model, interface_problems
from .document import SCHEMA, Document, Table, Text


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
    _match(found, _Signed(left), _Signed(right))
    if text:
        lines = difflib.unified_diff(str(left).splitlines(), str(right).splitlines(), "a", "b", lineterm="")
        found.text = list(lines)
    return found


def _op(node: Node) -> str:
    return f"{node.domain}:{node.op}" if node.domain else node.op


class _Signed:
    """A model's nodes with what identifies them."""

    def __init__(self, model: Model) -> None:
        self.deep: dict[Node, str] = {}
        """Hash of what a node computes, all the way up to inputs and constants."""
        self.local: dict[Node, str] = {}
        """The same, but with operands by their names: equal where only something further up changed."""
        self._values: dict[Value, str] = {}
        for root in model.roots():
            for graph in root.all_graphs():
                for i, value in enumerate(graph.inputs):
                    self._values[value] = f"input {value.name}" if graph.parent is None else f"body input {i}"
                for value in graph.constants:
                    self._values[value] = f"constant {value.data.digest()}" if value.data is not None else "constant"
            # Outer nodes first: bodies capture outer values.
            for node in root.all_nodes():
                self._sign(node)

    def _sign(self, node: Node) -> None:
        head = [_op(node), *(f"{name}={_attr_text(attr)}" for name, attr in sorted(node.attrs.items()))]
        operands = [self._values.get(v, "later") if v is not None else "-" for v in node.inputs]
        key = self.deep[node] = _hash([*head, *operands])
        names = [operands[i] if v is None or v.data is not None else v.name for i, v in enumerate(node.inputs)]
        self.local[node] = _hash([*head, *names, *(v.name for v in node.outputs)])
        for i, out in enumerate(node.outputs):
            self._values[out] = f"{key}.{i}"


def _hash(parts: list[str]) -> str:
    return hashlib.blake2b("\n".join(parts).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _match(found: Difference, left: _Signed, right: _Signed) -> None:
    """Pairs nodes by what they compute, then by what they do to values of the same names, then by name."""
    rest, open_right = list(left.deep), list(right.deep)
    for keys_left, keys_right in ((left.deep, right.deep), (left.local, right.local)):
        before = len(rest)
        rest, open_right, _ = _pair(rest, open_right, keys_left, keys_right)
        found.same += before - len(rest)
    names = [{n: n.name or f"unnamed {i} {id(side)}" for i, n in enumerate(side.deep)} for side in (left, right)]
    rest, open_right, pairs = _pair(rest, open_right, names[0], names[1])
    found.changed = [(print_node(a), print_node(b)) for a, b in pairs]
    found.removed = [print_node(n) for n in rest]
    found.added = [print_node(n) for n in open_right]


def _pair(
    left: list[Node], right: list[Node], keys_left: dict[Node, str], keys_right: dict[Node, str]
) -> tuple[list[Node], list[Node], list[tuple[Node, Node]]]:
    """What has no partner on either side, and the pairs; nodes of one key in order."""
    waiting: dict[str, list[Node]] = {}
    for node in reversed(right):
        waiting.setdefault(keys_right[node], []).append(node)
    pairs: list[tuple[Node, Node]] = []
    lonely: list[Node] = []
    for node in left:
        partners = waiting.get(keys_left[node])
        if partners:
            pairs.append((node, partners.pop()))
        else:
            lonely.append(node)
    taken = {b for _, b in pairs}
    return lonely, [n for n in right if n not in taken], pairs


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
            if before == after:
                document.append(Text(f"  other constants: {before}", "yellow"))
            else:
                document += [Text(f"  - {before}", "red"), Text(f"  + {after}", "green")]
        document.extend([Text(f"  ... {len(d.changed) - LINES} more")] if len(d.changed) > LINES else [])
    if d.text:
        document.append(Text("\n".join(["", *d.text])))
    return document


LINES = 40
"""Nodes listed of each kind."""
