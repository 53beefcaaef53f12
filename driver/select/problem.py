"""What there is to choose from: units, which of them exclude each other, which are neighbours in the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

from ...ir.cost import flops
from ...ir.dims import SymDim
from ...ir.graph import Model, Node, Value
from ...ir.infer import infer_model
from ...ir.types import TensorType
from ...passes.choices import Unit
from ..dims import input_symbols, with_dims

REACH = 6
"""How many operators may lie between neighbours: activations, sums and movements through which numbers stay as they
are stored."""
MANY = 3
"""So many options at a place are a curve: they do the same by degrees, and one of them says what to expect of all."""
_SAME_NUMBERS = ("factorize-", "merge-")
"""Passes whose layers read and give the numbers that they did before: nothing is converted at their borders."""
_UNKNOWN_ELEMENTS = 1 << 12
"""What a tensor counts whose extents nobody knows."""


@dataclass(frozen=True)
class Border:
    """A tensor between two places, converted where only one of them is taken."""

    a: int
    b: int | None
    """Indices of places; ``None``: an operator that cannot be taken, or the outside."""
    elements: int


@dataclass(frozen=True)
class Problem:
    """Units and what ties them. Units of one pass at one *place* exclude each other: options."""

    units: tuple[Unit, ...]
    place_of: tuple[int, ...]
    """Of each unit."""
    borders: tuple[Border, ...] = ()
    kinds: tuple[str, ...] = ()
    """Of each unit: operator, shapes and option. Units of one kind are taken to cost equal time."""
    work: tuple[float, ...] = ()
    """Of each unit: its operator's share of the model's operations, the first guess at its share of time."""
    savings: tuple[float, ...] = ()
    """Of each unit: the share of its operator's parameters, and so of its operations, that it saves. Empty: unknown."""
    conflicts: tuple[tuple[int, int], ...] = ()
    """Pairs of places of which one at the most is taken: first the one whose units exclude those of other passes."""

    @cached_property
    def places(self) -> list[list[int]]:
        """Units of each place."""
        found: list[list[int]] = [[] for _ in range(max(self.place_of, default=-1) + 1)]
        for unit, place in enumerate(self.place_of):
            found[place].append(unit)
        return found

    @cached_property
    def saved_work(self) -> list[float]:
        """Of each unit: the share of the model's operations that it saves, as far as is known."""
        return (
            [w * s for w, s in zip(self.work, self.savings, strict=True)] if self.savings else [0.0] * len(self.units)
        )

    def everything(self) -> frozenset[str]:
        """An option of every place: the first, since passes ask for what saves most first; of many, one of the middle,
        since the first of them may leave nothing. Nothing that excludes other passes."""
        alone = {a for a, _ in self.conflicts}
        return frozenset(
            self.units[middle(options)].key for place, options in enumerate(self.places) if place not in alone
        )

    def excluded(self, place: int) -> frozenset[int]:
        """Places of which nothing can be taken where something is at this one; this one among them."""
        return self._excluded[place]

    @cached_property
    def _excluded(self) -> list[frozenset[int]]:
        found: list[set[int]] = [{place} for place in range(len(self.places))]
        for a, b in self.conflicts:
            found[a].add(b)
            found[b].add(a)
        return [frozenset(places) for places in found]

    def options_with(self, unit: int) -> list[int]:
        """Units of the same place, this one among them."""
        return self.places[self.place_of[unit]]

    def curve(self, unit: int) -> str:
        """What units have in common that are degrees of one thing: pass, form, operator and shapes; else empty."""
        if not self.savings or len(self.options_with(unit)) < MANY:
            return ""
        label, _, rest = self.kinds[unit].partition(" ")
        return f"{label.rstrip('0123456789')} {rest}"

    def indices(self, taken: frozenset[str]) -> list[int]:
        """Of the units in a selection."""
        return [i for i, unit in enumerate(self.units) if unit.key in taken]

    def saved(self, taken: frozenset[str]) -> int:
        """Bytes, as units say."""
        return sum(self.units[i].saved_bytes for i in self.indices(taken))

    def saved_share(self, taken: frozenset[str]) -> float:
        """Of the model's operations, as far as is known."""
        return sum(self.saved_work[i] for i in self.indices(taken))

    def converted(self, taken: frozenset[str]) -> int:
        """Elements that cross a border in a selection."""
        places = {self.place_of[i] for i in self.indices(taken)}
        return sum(b.elements for b in self.borders if (b.a in places) != (b.b in places))


def make_problem(units: Sequence[Unit], model: Model, shapes: Mapping[str, Sequence[int]] | None = None) -> Problem:
    """The problem of choosing among ``units``, which were proposed for ``model``; ``shapes`` of a sample's inputs.

    Units whose key names neither a node of the model nor a constant that one reads have no neighbours and a kind of
    their own.
    """
    places: dict[str, int] = {}
    place_of = tuple(places.setdefault(_place(unit), len(places)) for unit in units)
    closed = _closed(model, shapes or {})
    nodes = nodes_by_name(closed)
    at = {place: nodes.get(node_name(key)) for key, place in places.items()}
    converting = {i for unit, i in zip(units, place_of, strict=True) if not unit.owner.startswith(_SAME_NUMBERS)}
    borders = tuple(_borders({node: i for i, node in at.items() if node is not None and i in converting}))
    total = sum(_flops(node) for node in closed.all_nodes()) or 1.0
    kinds: list[str] = []
    work: list[float] = []
    savings: list[float] = []
    for unit, place in zip(units, place_of, strict=True):
        members = [node for node in (at[place], *map(nodes.get, unit.others or ())) if node is not None]
        kinds.append(" ".join([unit.key.partition("@")[0], *map(_kind, members)]) if members else unit.key)
        work.append(sum(map(_flops, members)) / total if members else 1.0 / len(units))
        savings.append(_saving(unit, members))
    conflicts = tuple(_conflicts(units, places, place_of))
    return Problem(tuple(units), place_of, borders, tuple(kinds), tuple(work), tuple(savings), conflicts)


def _conflicts(units: Sequence[Unit], places: Mapping[str, int], place_of: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Each place whose units exclude others, with those of other passes there."""
    named: dict[str, list[str]] = {}
    for place in places:
        named.setdefault(node_name(place), []).append(place)
    alone = {place: unit for unit, place in zip(units, place_of, strict=True) if unit.others is not None}
    for own, unit in alone.items():
        for name in (node_name(unit.key), *(unit.others or ())):
            yield from ((own, places[place]) for place in named.get(name, ()) if places[place] != own)


def operations(model: Model, shapes: Mapping[str, Sequence[int]]) -> float:
    """Of one run on inputs of these shapes, as far as they are known."""
    return sum(_flops(node) for node in _closed(model, shapes).all_nodes())


def middle(options: Sequence[int]) -> int:
    """The option that stands for a place: see ``Problem.everything``."""
    return options[len(options) // 2 if len(options) >= MANY else 0]


def mildest(options: Sequence[int]) -> int:
    """The option by which a curve of errors is scaled: large errors no longer grow with their causes."""
    return options[-1 if len(options) >= MANY else 0]


def _saving(unit: Unit, nodes: Sequence[Node]) -> float:
    held = sum(max((v.data.nbytes for v in node.inputs if v is not None and v.data), default=0) for node in nodes)
    return min(max(unit.saved_bytes / held, 0.0), 1.0) if held else 0.0


def nodes_by_name(model: Model) -> dict[str, Node]:
    """Nodes by their names, and by those of constants that they are the first to read."""
    found: dict[str, Node] = {}
    for node in model.all_nodes():
        for value in node.inputs:
            if value is not None and value.data is not None and value.name:
                found.setdefault(value.name, node)
    found.update((node.name, node) for node in model.all_nodes() if node.name)
    return found


def _place(unit: Unit) -> str:
    return f"{unit.owner}@{unit.key.partition('@')[2]}"


def node_name(place: str) -> str:
    """What a unit's key, or a place, names."""
    name = place.partition("@")[2]
    return name.rpartition("#")[0] if name.rpartition("#")[2].isdigit() and "#" in name else name


def _kind(node: Node) -> str:
    """Operator, attributes and shapes: what decides how long it takes."""
    shapes = [str(v.type) if v is not None else "" for v in node.inputs]
    attrs = [f"{name}={value}" for name, value in sorted(node.attrs.items())] if node.attrs else []
    return " ".join([node.op, *attrs, *shapes])


def _borders(places: Mapping[Node, int]) -> Iterator[Border]:
    """Tensors between places, each pair once; and those that leave towards operators that are no place."""
    for node, place in places.items():
        for value in node.outputs:
            reached, outside = _readers(value, places)
            elements = _elements(value)
            for other in sorted(reached - {place}):
                yield Border(place, other, elements)
            if outside:
                yield Border(place, None, elements)
        data = next((v for v in node.inputs if v is not None and v.data is None), None)
        if data is not None and not _comes_from_a_place(data, places):
            yield Border(place, None, _elements(data))


def _readers(value: Value, places: Mapping[Node, int]) -> tuple[set[int], bool]:
    """Places that read what becomes of a value, and whether something else does."""
    found: set[int] = set()
    outside = False
    seen: set[Value] = {value}
    level = [value]
    for _ in range(REACH):
        following: list[Value] = []
        for current in level:
            for user, _ in current.uses:
                if user in places:
                    found.add(places[user])
                elif not user.outputs or user.subgraphs:
                    outside = True
                else:
                    following += [v for v in user.outputs if v not in seen]
                    seen.update(user.outputs)
        level = following
    return found, outside or not found


def _comes_from_a_place(value: Value, places: Mapping[Node, int]) -> bool:
    level = [value]
    for _ in range(REACH):
        following: list[Value] = []
        for current in level:
            producer = current.producer
            if producer is None:
                continue
            if producer in places:
                return True
            following += [v for v in producer.inputs if v is not None and v.data is None]
        level = following[:REACH]
    return False


def _elements(value: Value) -> int:
    count = value.type.count if isinstance(value.type, TensorType) else None
    return count if isinstance(count, int) else _UNKNOWN_ELEMENTS


def _flops(node: Node) -> float:
    found = flops(node)
    return float(found) if isinstance(found, int) else 0.0


def _closed(model: Model, shapes: Mapping[str, Sequence[int]]) -> Model:
    """The model with the extents of a sample, as far as its inputs name them."""
    sizes: dict[str, int] = {}
    for value in model.graph.inputs:
        for extent, size in zip(value.shape or (), shapes.get(value.name, ()), strict=False):
            if isinstance(extent, SymDim) and len(extent.symbols()) == 1:
                sizes.setdefault(next(iter(extent.symbols())), int(size))
    closed = with_dims(model, {name: sizes[name] for name in input_symbols(model) if name in sizes})
    for value in closed.graph.inputs:
        given = shapes.get(value.name)
        if given is not None and isinstance(value.type, TensorType):
            value.type = replace(value.type, shape=tuple(int(d) for d in given))
    infer_model(closed)
    return closed


def runs_of(keys: Sequence[str], size: int) -> list[list[str]]:
    """``keys`` in runs of ``size`` neighbours."""
    return [[key for _, key in group] for _, group in groupby(enumerate(keys), lambda item: item[0] // size)]
