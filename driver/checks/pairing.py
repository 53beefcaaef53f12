"""Which values of two models correspond, and the first that differs.

Values are paired by name (optimizers keep the names of what they keep), then by structure (the same operator on paired
operands, the same constants), then by content (equal tensors on every sample). Paired values are compared with bounds
that come from the first model's own rounding noise at that very value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...backends.core import Array, Sample
from ...backends.ort.session import Session
from ...ir.clone import clone_model
from ...ir.errors import BackendError, PlanishError
from ...ir.graph import Model, Node, Port, Value
from ...ir.ops import MOVEMENT
from ...ir.types import TensorType
from .compare import OutputCheck
from .reference import Reference

MAX_VALUES = 3000
"""Values of larger models that are compared: every n-th."""


@dataclass
class Departure:
    """The first value at which the second model departs from the first, in order of execution."""

    value: Value
    check: OutputCheck
    a: list[Node]
    """The nodes of the first model between values that agree and the one that differs."""
    b: list[Node]
    """The same of the second model."""
    agree: list[Value]
    """The last values that agree, from which it is computed."""
    differing: int
    """Pairs that differ on the way to the outputs."""


@dataclass
class Pairing:
    """Two models, and the values of their main graphs that correspond."""

    left: Model
    right: Model
    samples: Sequence[Sample]
    tolerance: float = 0.0
    pairs: dict[Value, Value] = field(default_factory=dict[Value, Value])
    found: dict[str, int] = field(default_factory=dict[str, int])
    """Number of pairs by how they were found: ``name``, ``structure``, ``content``."""
    because: str = ""
    """Why not all could be compared."""

    def __post_init__(self) -> None:
        self.values = _tensors(self.left), _tensors(self.right)
        for how, pairs in (
            ("name", lambda: _by_name(*self.values)),
            ("structure", lambda: _by_structure(self.left, self.right, self.pairs)),
            ("content", lambda: self._by_content(*self.values)),
        ):
            more = pairs()
            self.pairs.update(more)
            self.found[how] = len(more)

    def _by_content(self, left: list[Value], right: list[Value]) -> dict[Value, Value]:
        """Values that nothing pairs so far and that hold equal bits for the first sample."""
        taken = set(self.pairs.values())
        rest = [v for v in left if v not in self.pairs], [v for v in right if v not in taken]
        if not rest[0] or not rest[1]:
            return {}
        arrays = [_values_of(m, vs, self.samples[0]) for m, vs in zip((self.left, self.right), rest, strict=True)]
        waiting: dict[tuple[Any, ...], list[Value]] = {}
        for value, array in reversed(list(arrays[1].items())):
            waiting.setdefault(_content(array), []).append(value)
        found: dict[Value, Value] = {}
        for value, array in arrays[0].items():
            same = waiting.get(_content(array))
            if same and array.size > 1:
                found[value] = same.pop()
        return found

    def checks(self) -> dict[Value, OutputCheck]:
        """How each pair compares, with noise measured at that value."""
        pairs = list(self.pairs.items())
        step = max(1, len(pairs) // MAX_VALUES)
        pairs = [p for i, p in enumerate(pairs) if i % step == 0]
        labels = [f"value{i}" for i in range(len(pairs))]
        try:
            a = _with_outputs(self.left, [x for x, _ in pairs], labels)
            b = Session(_with_outputs(self.right, [y for _, y in pairs], labels))
            reference = Reference(a, optimizer_noise=False)
        except PlanishError as error:
            self.because = f"the inner values cannot be asked for: {error.message}"
            return {}
        reference.samples = list(self.samples)
        found: dict[Value, OutputCheck] = {}
        for i, sample in enumerate(self.samples):
            try:
                checks = reference.compare(i, b.run(sample), tolerance=self.tolerance)
            except BackendError as error:
                self.because = f"sample {i} does not run: {error.message}"
                continue
            for (value, _), check in zip(pairs, checks, strict=False):
                if value not in found or not check.equivalent:
                    found.setdefault(value, check).merge(check)
        return found

    def departure(self, wrong: Collection[str] | None = None) -> Departure | None:
        """The first value that differs while everything it is computed from agrees, and that reaches an output by
        values that differ or are not paired: tools use a name again for what follows. ``None`` where there is none.

        ``wrong``: the outputs in question, by default all.
        """
        checks = self.checks()
        order = {v: i for i, v in enumerate(v for node in self.left.graph for v in node.outputs)}
        ports = zip(self.left.graph.ports, self.left.graph.outputs, strict=True)
        ends = [v for port, v in ports if wrong is None or port.name in wrong]
        bad = [v for v in _behind(ends, {v for v, c in checks.items() if c.equivalent}) if v in checks and v in order]
        if not bad:
            return None
        good = {v for v, c in checks.items() if c.equivalent}
        first = min(bad, key=lambda v: (_depends(v, set(bad)), order[v]))
        checks[first].output = first.name
        nodes, agree = _between(first, good)
        others, _ = _between(self.pairs[first], {self.pairs[v] for v in good})
        return Departure(first, checks[first], nodes, others, agree, len(bad))


def _tensors(model: Model) -> list[Value]:
    return [v for node in model.graph for v in node.outputs if v.uses and isinstance(v.type, TensorType)]


def _by_name(left: list[Value], right: list[Value]) -> dict[Value, Value]:
    """Names that occur once on each side, with the same element type."""
    once = [{name for name, n in Counter(v.name for v in side).items() if n == 1 and name} for side in (left, right)]
    names = {v.name: v for v in right if v.name in once[1]}
    return {v: names[v.name] for v in left if v.name in once[0] & once[1] and names[v.name].dtype is v.dtype}


def _by_structure(left: Model, right: Model, pairs: dict[Value, Value]) -> dict[Value, Value]:
    """The same operator on paired operands; inputs pair by name, constants by content."""
    known = dict(pairs)
    known.update(_by_name(left.graph.inputs, right.graph.inputs))
    taken = set(pairs.values())
    index: dict[tuple[Any, ...], list[Node]] = {}
    for node in right.graph:
        index.setdefault(_key(node, {}), []).append(node)
    found: dict[Value, Value] = {}
    for node in left.graph:
        for partner in index.get(_key(node, known), ()):
            if not any(v in taken for v in partner.outputs) and len(partner.outputs) == len(node.outputs):
                for x, y in zip(node.outputs, partner.outputs, strict=True):
                    if x not in pairs and isinstance(x.type, TensorType):
                        found[x] = known[x] = y
                        taken.add(y)
                break
    return found


def _key(node: Node, known: dict[Value, Value]) -> tuple[Any, ...]:
    operands = tuple(
        None if v is None else v.data.digest() if v.data is not None else id(known.get(v, v)) for v in node.inputs
    )
    attrs = tuple(sorted((k, repr(v)) for k, v in node.attrs.items()))
    return (node.domain, node.op, operands, attrs)


def _values_of(model: Model, values: list[Value], sample: Sample) -> dict[Value, Array]:
    labels = [f"value{i}" for i in range(len(values))]
    try:
        outputs = Session(_with_outputs(model, values, labels)).run(sample)
    except PlanishError:
        return {}
    return {v: np.asarray(a) for v, a in zip(values, outputs, strict=True) if a is not None}


def _content(array: Array) -> tuple[Any, ...]:
    return (array.dtype.str, array.shape, hash(array.tobytes()))


def _with_outputs(model: Model, values: list[Value], labels: list[str]) -> Model:
    """A copy that returns those values of the main graph."""
    copy = clone_model(model)
    places = {v: (i, v.index) for i, node in enumerate(model.graph) for v in node.outputs}
    nodes = list(copy.graph)
    inner = [nodes[i].outputs[k] for i, k in (places[v] for v in values)]
    copy.graph.ret.set_inputs(inner)
    copy.graph.ports = [Port(label, v.type) for label, v in zip(labels, inner, strict=True)]
    return copy


def _depends(value: Value, on: set[Value]) -> bool:
    """Whether another value of ``on`` lies upstream."""
    stack, seen = [value], {value}
    while stack:
        node = stack.pop().producer
        for operand in node.inputs if node is not None else ():
            if operand is None or operand in seen:
                continue
            if operand in on:
                return True
            seen.add(operand)
            stack.append(operand)
    return False


def _behind(ends: list[Value], good: set[Value]) -> list[Value]:
    """The values that the ends are computed from, up to those that agree."""
    stack = [v for v in ends if v not in good]
    found = dict.fromkeys(stack)
    while stack:
        node = stack.pop().producer
        for operand in node.inputs if node is not None else ():
            if operand is not None and operand not in good and operand not in found:
                found[operand] = None
                stack.append(operand)
    return list(found)


def _between(value: Value, good: set[Value]) -> tuple[list[Node], list[Value]]:
    """The nodes upstream of ``value`` up to values that agree, in order, and those values."""
    nodes: dict[Node, None] = {}
    edge: dict[Value, None] = {}
    stack = [value]
    while stack and len(nodes) < 200:
        node = stack.pop().producer
        if node is None or node in nodes:
            continue
        nodes[node] = None
        for operand in node.inputs:
            if operand is None or operand.data is not None:
                continue
            if operand in good and not (operand.producer is not None and _is_view(operand.producer)):
                edge[operand] = None
            else:
                stack.append(operand)
    return list(nodes)[::-1], list(edge)


def _is_view(node: Node) -> bool:
    """A movement says little about where a value comes from."""
    return (node.domain, node.op) in MOVEMENT and node.op == "Identity"


def kernels_differ(original: Model, optimized: Model, sample: Sample) -> str:
    """Where both models compute the first value that differs by the same operators: which; else empty."""
    departure = Pairing(original, optimized, [sample]).departure()
    if departure is None or not departure.a or _operators(departure.a) != _operators(departure.b):
        return ""
    return f"%{departure.value.name}, by {', '.join(_operators(departure.a))} in both models"


def _operators(nodes: list[Node]) -> list[str]:
    return sorted(f"{node.domain}::{node.op}" if node.domain else node.op for node in nodes)
