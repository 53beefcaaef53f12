"""Two models of other tools' making: which value of the one has no equal in the other first.

Values are paired by name (optimizers keep the names of what they keep), then by structure (the same operator on paired
operands, the same constants), then by content (equal tensors on every sample). Paired values are compared with bounds
that come from the first model's own rounding noise at that very value. The first one in order of execution that
differs, while everything it is computed from agrees, is where the second model went wrong.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ...backends.core import Array, Sample
from ...backends.ort.session import Session
from ...ir.clone import clone_model
from ...ir.errors import BackendError, PlanishError, UsageError
from ...ir.graph import Model, Node, Port, Value
from ...ir.ops import MOVEMENT
from ...ir.text.printer import print_node
from ...ir.types import TensorType
from ..compare import OutputCheck
from ..document import SCHEMA, Document, Text, plain_data
from ..reference import Reference
from ..samples import Source
from ..validate import AnyModel, as_model, make_reference, make_samples

MAX_VALUES = 3000
"""Values of larger models that are compared: every n-th."""
MAX_SHOWN = 12


@dataclass
class Alignment:
    """The outcome of :func:`align`."""

    paired: dict[str, int] = field(default_factory=dict[str, int])
    """Number of pairs by how they were found: ``name``, ``structure``, ``content``."""
    values: tuple[int, int] = (0, 0)
    """Values of the two models' main graphs."""
    first: str = ""
    """The first value that differs, by its name in the first model; empty where none does."""
    check: OutputCheck | None = None
    a: list[str] = field(default_factory=list[str])
    """The nodes of the first model between values that agree and the one that differs."""
    b: list[str] = field(default_factory=list[str])
    """The same of the second model."""
    agree: list[str] = field(default_factory=list[str])
    """The last values that agree, from which it is computed."""
    differing: int = 0
    """Pairs that differ in all."""
    outputs: list[OutputCheck] = field(default_factory=list[OutputCheck])
    because: str = ""
    """Why less was found than asked for."""
    samples: int = 0
    seconds: float = 0.0

    @property
    def equal(self) -> bool:
        return not self.first and all(c.equivalent for c in self.outputs) and not self.because

    def to_dict(self) -> dict[str, Any]:
        return plain_data({"schema": SCHEMA, "equal": self.equal, **asdict(self)})

    def document(self) -> Document:
        pairs = ", ".join(f"{n} by {how}" for how, n in self.paired.items()) or "none"
        head = f"{sum(self.paired.values())} values of {self.values[0]} and {self.values[1]} paired ({pairs})"
        document: Document = [Text(head)]
        if self.because:
            document.append(Text(self.because, "red"))
        if not self.first:
            bad = [c for c in self.outputs if not c.equivalent]
            document += [Text(f"  {c}", "red") for c in bad]
            if not bad and not self.because:
                document.append(Text(f"all agree on {self.samples} samples", "green"))
            return document
        document.append(Text(f"the first value that differs is {self.first!r}; {self.differing} differ in all", "bold"))
        document.append(Text(f"  {self.check}"))
        if self.agree:
            document.append(Text(f"  computed from values that agree: {', '.join(self.agree[:MAX_SHOWN])}"))
        for title, lines in (("in the first model", self.a), ("in the second model", self.b)):
            document.append(Text(f"  {title}"))
            document += [Text(f"    {line}") for line in lines[:MAX_SHOWN]]
        return document


def align(
    a: AnyModel,
    b: AnyModel,
    samples: Source | None = None,
    *,
    tolerance: float = 0.0,
    seed: int = 0,
) -> Alignment:
    """Runs both models on the same samples and names the first value at which ``b`` departs from ``a``.

    Raises ``UsageError`` where the runtime cannot run ``a``.
    """
    start = time.monotonic()
    (left, run_left), (right, run_right) = as_model(a), as_model(b)
    reference = make_reference(left, run_left, optimizer_noise=False)
    if isinstance(reference, str):
        raise UsageError(f"nothing to compare with: {reference}", where="bisect", help="aligning runs both models")
    items = make_samples(samples, left, reference, seed=seed).items
    found = _Alignment(left, right, items, tolerance).run()
    found.outputs = _outputs(reference, run_right, found, tolerance)
    found.samples, found.seconds = len(items), time.monotonic() - start
    return found


def _outputs(reference: Reference, right: Any, found: Alignment, tolerance: float) -> list[OutputCheck]:
    """The outputs of both as they are."""
    try:
        session = Session(right)
        checks = [
            c
            for i, sample in enumerate(reference.samples)
            for c in reference.compare(i, session.run(sample), tolerance=tolerance)
        ]
    except PlanishError as error:
        found.because = f"the second model does not run: {error.message}"
        return []
    merged: dict[str, OutputCheck] = {}
    for check in checks:
        if check.output in merged:
            merged[check.output].merge(check)
        else:
            merged[check.output] = check
    return list(merged.values())


class _Alignment:
    def __init__(self, left: Model, right: Model, samples: Sequence[Sample], tolerance: float) -> None:
        self.left, self.right, self.samples, self.tolerance = left, right, list(samples), tolerance
        self.pairs: dict[Value, Value] = {}
        self.found = Alignment()

    def run(self) -> Alignment:
        values = _tensors(self.left), _tensors(self.right)
        self.found.values = len(values[0]), len(values[1])
        by_name = _by_name(*values)
        self.pairs.update(by_name)
        by_structure = _by_structure(self.left, self.right, self.pairs)
        self.pairs.update(by_structure)
        self.found.paired = {"name": len(by_name), "structure": len(by_structure)}
        by_content = self._by_content(*values)
        self.pairs.update(by_content)
        self.found.paired["content"] = len(by_content)
        checks = self._checks()
        self._name_first(checks)
        return self.found

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

    def _checks(self) -> dict[Value, OutputCheck]:
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
            self.found.because = f"the inner values cannot be asked for: {error.message}"
            return {}
        reference.samples = self.samples
        found: dict[Value, OutputCheck] = {}
        for i, sample in enumerate(self.samples):
            try:
                checks = reference.compare(i, b.run(sample), tolerance=self.tolerance)
            except BackendError as error:
                self.found.because = f"sample {i} does not run: {error.message}"
                continue
            for (value, _), check in zip(pairs, checks, strict=False):
                if value not in found or not check.equivalent:
                    found.setdefault(value, check).merge(check)
        return found

    def _name_first(self, checks: dict[Value, OutputCheck]) -> None:
        order = {v: i for i, v in enumerate(v for node in self.left.graph for v in node.outputs)}
        bad = [v for v, c in checks.items() if not c.equivalent and v in order]
        self.found.differing = len(bad)
        if not bad:
            return
        good = {v for v, c in checks.items() if c.equivalent}
        first = min(bad, key=lambda v: (_depends(v, set(bad)), order[v]))
        self.found.first, self.found.check = first.name, checks[first]
        self.found.check.output = first.name
        nodes, agree = _between(first, good)
        self.found.a, self.found.agree = [print_node(n) for n in nodes], [v.name for v in agree]
        partners = {self.pairs[v] for v in good}
        self.found.b = [print_node(n) for n in _between(self.pairs[first], partners)[0]]


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
