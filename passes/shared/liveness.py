"""What lives when: the memory that the values of a graph take as its nodes run in their order.

The model of a runtime with these habits, each of which can be turned off:

* a view (Reshape and its like) is its operand's memory under another shape;
* an elementwise operator writes over an operand that nobody reads again, where the bytes are as many;
* the graph's inputs are there from the beginning until they are read for the last time (those that nobody reads take
  nothing), its outputs until the end.

A body takes its own peak while the node that has it runs. Constants are not counted: they lie elsewhere. Sizes are
numbers where the extents are; the others are counted as nothing and named.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...ir.cost import value_bytes
from ...ir.dims import Dim, same_dim
from ...ir.graph import Graph, Node, Value
from ...ir.ops import ELEMENTWISE
from .arena.buffers import Buffer
from .unit_axes import VIEWS

SAME_MEMORY = frozenset((*VIEWS, "Identity"))
"""Operators whose result is their first operand's memory."""


@dataclass(frozen=True)
class Sharing:
    """Which values share memory."""

    views: bool = True
    in_place: bool = True


SHARING = Sharing()


@dataclass
class Storage:
    """Memory of one value, or of several that share it."""

    values: list[Value]
    size: int
    """Bytes."""
    born: int
    """Index of the node that writes it first; 0 for inputs."""
    dies: int
    """Index of the last node that reads it; of the last node for outputs."""
    fixed: bool = False
    """An input or an output: nothing may be written over it."""


@dataclass
class Liveness:
    """Storages of one graph in the order of their birth."""

    nodes: list[Node]
    storages: list[Storage] = field(default_factory=list[Storage])
    workspace: dict[int, int] = field(default_factory=dict[int, int])
    """Bytes that the bodies of a node take, by its index."""
    unknown: list[Value] = field(default_factory=list[Value])
    """Values whose size is not known."""

    @property
    def profile(self) -> list[int]:
        """Bytes alive while each node runs."""
        steps = [0] * (max(len(self.nodes), 1) + 1)
        for s in self.storages:
            steps[s.born] += s.size
            steps[s.dies + 1] -= s.size
        found: list[int] = []
        alive = 0
        for i, step in enumerate(steps[:-1]):
            alive += step
            found.append(alive + self.workspace.get(i, 0))
        return found

    @property
    def peak(self) -> int:
        """Bytes."""
        return max(self.profile)

    def alive(self, step: int) -> list[Storage]:
        """Storages at one node, the largest first."""
        return sorted((s for s in self.storages if s.born <= step <= s.dies), key=lambda s: -s.size)

    def buffers(self, alignment: int = 1) -> list[Buffer]:
        """The storages as buffers to be placed, and the workspaces behind them."""
        of_storages = [Buffer(s.born, s.dies + 1, s.size, alignment) for s in self.storages]
        return of_storages + [Buffer(i, i + 1, size, alignment) for i, size in sorted(self.workspace.items())]


def liveness(graph: Graph, sharing: Sharing = SHARING) -> Liveness:
    """Of the graph in its present order; the peaks of bodies are their nodes' workspace."""
    peaks: dict[Graph, int] = {}
    bodies = list(graph.all_graphs())
    for body in reversed(bodies[1:]):  # inner ones come behind those around them
        peaks[body] = _Builder(body, sharing, peaks).run().peak
    return _Builder(graph, sharing, peaks).run()


def _as_many(size: Dim, storage: Storage) -> bool:
    """Whether the storage has just so many bytes, whatever open extents are."""
    if isinstance(size, int):
        return storage.size == size > 0
    return size is not None and same_dim(size, value_bytes(storage.values[0]))


class _Builder:
    def __init__(self, graph: Graph, sharing: Sharing, peaks: dict[Graph, int]) -> None:
        self.graph, self.sharing, self.peaks = graph, sharing, peaks
        self.found = Liveness([node for node in graph if not node.is_return])
        self.outputs = set(graph.outputs)
        self.last = self._last_uses()
        self.storage_of: dict[Value, Storage] = {}

    def _last_uses(self) -> dict[Value, int]:
        """Index of the node that reads each value last, itself or in a body."""
        found = dict.fromkeys(self.graph.inputs, 0)
        for i, node in enumerate(self.found.nodes):
            found.update((v, i) for v in node.outputs)
            for reader in (node, *(inner for body in node.subgraphs for inner in body.all_nodes())):
                found.update((v, i) for v in reader.inputs if v in found)
        end = max(len(self.found.nodes) - 1, 0)
        found.update((v, end) for v in self.graph.outputs if v in found)
        return found

    def run(self) -> Liveness:
        for value in self.graph.inputs:
            if value.uses:
                self._new(value, 0, fixed=True)
        for i, node in enumerate(self.found.nodes):
            if node.subgraphs:
                self.found.workspace[i] = max(self.peaks[body] for body in node.subgraphs)
            for value in node.outputs:
                shared = self._shared(node, value, i)
                if shared is None:
                    self._new(value, i, fixed=value in self.outputs)
                else:
                    shared.values.append(value)
                    shared.fixed |= value in self.outputs
                    shared.dies = max(shared.dies, self.last[value])
                    self.storage_of[value] = shared
        return self.found

    def _new(self, value: Value, born: int, *, fixed: bool) -> None:
        size = value_bytes(value)
        if not isinstance(size, int):
            self.found.unknown.append(value)
            size = 0
        self.storage_of[value] = made = Storage([value], size, born, self.last.get(value, born), fixed)
        self.found.storages.append(made)

    def _shared(self, node: Node, value: Value, at: int) -> Storage | None:
        """The storage of an operand that the result takes over."""
        operands = [v for v in node.inputs if v is not None]
        if node.domain != "" or not operands:
            return None
        if node.op in SAME_MEMORY:
            return self.storage_of.get(operands[0]) if self.sharing.views else None
        if not self.sharing.in_place or ("", node.op) not in ELEMENTWISE:
            return None
        size = value_bytes(value)
        for v in operands:
            storage = self.storage_of.get(v)
            free = storage is not None and storage.dies == at and not storage.fixed
            if storage is not None and free and _as_many(size, storage):
                return storage
        return None
