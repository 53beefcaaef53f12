"""Nodes as tasks: what each makes, reads and may write over, and which must come first. Numbers only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ....ir.cost import value_bytes
from ....ir.graph import Graph, Node, Value
from ....ir.ops import ELEMENTWISE, is_pure
from ..liveness import SAME_MEMORY, SHARING, Sharing


@dataclass
class Tasks:
    """Of a graph whose nodes are numbered in their present order; storages are numbered too."""

    before: list[list[int]] = field(default_factory=list[list[int]])
    """Nodes that each node needs done."""
    made: list[list[int]] = field(default_factory=list[list[int]])
    """Storages that each node is the first to write."""
    touched: list[list[int]] = field(default_factory=list[list[int]])
    """Storages that each node reads or makes views of."""
    overwrites: list[list[int]] = field(default_factory=list[list[int]])
    """Storages over which each node may write, where nobody reads them later."""
    work: list[int] = field(default_factory=list[int])
    """Bytes that bodies of each node take while it runs."""
    size: list[int] = field(default_factory=list[int])
    """Bytes of each storage."""
    users: list[list[int]] = field(default_factory=list[list[int]])
    """Nodes after which each storage is free: those that make or touch it."""
    kept: list[bool] = field(default_factory=list[bool])
    """Storages with an output of the graph: never free."""
    given: list[int] = field(default_factory=list[int])
    """Storages that are there from the beginning."""

    def __len__(self) -> int:
        return len(self.before)

    def least(self, node: int) -> int:
        """Bytes that a node needs in any order: what it reads and makes, less what it may write over."""
        over = max((self.size[s] for s in self.overwrites[node]), default=0)
        return sum(self.size[s] for s in {*self.touched[node], *self.made[node]}) - over + self.work[node]

    def profile(self, order: Iterable[int]) -> list[int]:
        """Bytes alive while each node runs, in this order."""
        waiting = [len(users) for users in self.users]
        alive = sum(self.size[s] for s in self.given)
        found: list[int] = []
        for i in order:
            alive += sum(self.size[s] for s in self.made[i])
            credit = max((self.size[s] for s in self.overwrites[i] if waiting[s] == 1), default=0)
            found.append(alive - credit + self.work[i])
            for s in {*self.touched[i], *self.made[i]}:
                waiting[s] -= 1
                if not waiting[s] and not self.kept[s]:
                    alive -= self.size[s]
        return found

    def peak(self, order: Sequence[int]) -> int:
        """Bytes."""
        return max(self.profile(order), default=0)


class Alive:
    """What is alive after some nodes."""

    def __init__(self, tasks: Tasks) -> None:
        self.tasks = tasks
        self.waiting = [len(users) for users in tasks.users]
        self.bytes = sum(tasks.size[s] for s in tasks.given)

    def during(self, node: int) -> int:
        """Bytes while the node runs next."""
        tasks = self.tasks
        credit = max((tasks.size[s] for s in tasks.overwrites[node] if self.waiting[s] == 1), default=0)
        return self.bytes + sum(tasks.size[s] for s in tasks.made[node]) - credit + tasks.work[node]

    def done(self, node: int) -> None:
        tasks = self.tasks
        self.bytes += sum(tasks.size[s] for s in tasks.made[node])
        for s in {*tasks.touched[node], *tasks.made[node]}:
            self.waiting[s] -= 1
            if not self.waiting[s] and not tasks.kept[s]:
                self.bytes -= tasks.size[s]


def tasks_of(graph: Graph, workspace: dict[int, int], sharing: Sharing = SHARING) -> tuple[list[Node], Tasks]:
    """The nodes, and what is to be known of them. ``workspace`` as in ``Liveness``. Unknown sizes count as nothing.

    Nodes that are not pure keep their order among themselves.
    """
    nodes = [node for node in graph if not node.is_return]
    index = {node: i for i, node in enumerate(nodes)}
    tasks = Tasks()
    storage: dict[Value, int] = {}
    fixed: set[int] = set()

    def new(value: Value) -> int:
        size = value_bytes(value)
        storage[value] = len(tasks.size)
        tasks.size.append(size if isinstance(size, int) else 0)
        tasks.users.append([])
        tasks.kept.append(False)
        return storage[value]

    for value in graph.inputs:
        if value.uses:
            tasks.given.append(new(value))
    fixed.update(tasks.given)
    last_impure: int | None = None
    for i, node in enumerate(nodes):
        readers = (node, *(inner for body in node.subgraphs for inner in body.all_nodes()))
        operands = dict.fromkeys(v for reader in readers for v in reader.inputs if v is not None and v in storage)
        before = {index[v.producer] for v in operands if v.producer in index}
        if not is_pure(node):
            before |= {last_impure} if last_impure is not None else set()
            last_impure = i
        touched = dict.fromkeys(storage[v] for v in operands)
        made: list[int] = []
        first = next((v for v in node.inputs if v is not None), None)
        for value in node.outputs:
            if sharing.views and node.domain == "" and node.op in SAME_MEMORY and first in storage:
                storage[value] = storage[first]
            else:
                made.append(new(value))
        tasks.before.append(sorted(before))
        tasks.touched.append(list(touched))
        tasks.made.append(made)
        tasks.work.append(workspace.get(i, 0))
        for s in (*touched, *made):
            tasks.users[s].append(i)
    for value in graph.outputs:
        if value in storage:
            tasks.kept[storage[value]] = True
    fixed.update(s for s, kept in enumerate(tasks.kept) if kept)
    for i, node in enumerate(nodes):
        elementwise = sharing.in_place and ("", node.op) in ELEMENTWISE and node.domain == "" and tasks.made[i]
        wanted = tasks.size[tasks.made[i][0]] if elementwise else 0
        operands = dict.fromkeys(storage[v] for v in node.inputs if v in storage) if wanted else {}
        tasks.overwrites.append([s for s in operands if s not in fixed and tasks.size[s] == wanted])
    return nodes, tasks
