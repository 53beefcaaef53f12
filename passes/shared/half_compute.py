"""Arithmetic in 16 bits where it is safe and pays: what the passes ``compute-*`` share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.constants import ArrayConstant
from ...ir.dtypes import DType
from ...ir.graph import Graph, Model, Node, Value
from ..core import Numbers, Pass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from .emit import again
from .half_regions import best_half, connected, elements_of
from .quant.statistics import Kind, Statistics, Want, value_names
from .stored_weights import LARGEST, relative_errors

Array = np.ndarray[Any, Any]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PRODUCTS = _names("MatMul Gemm Conv ConvTranspose")
_MOVEMENT = _names("Reshape Transpose Squeeze Unsqueeze Flatten Slice Gather Concat Split Expand Identity")
_ARITHMETIC = _names("Add Sub Mul Relu LeakyRelu MaxPool AveragePool GlobalAveragePool Gelu")
_ON_GPU = _names("Sigmoid Tanh Clip HardSigmoid HardSwish PRelu Min Max Neg Abs Where Erf Pad")
_PRODUCT_GAIN = 16.0
"""What a product saves for each element that it writes, beside 1 for other operators: it reads many for each."""


@dataclass
class ComputeHalf(Pass):
    """A pass that lets nodes compute in a float type of 16 bits. Each connected region is a unit of the budget."""

    numbers: ClassVar[Numbers] = Numbers.APPROXIMATES
    proposes: ClassVar[bool] = True
    feature: ClassVar[str]
    """What a target must have."""
    rounding: ClassVar[float]
    """Half the distance of neighbouring numbers, relative."""

    margin: float = 4.0
    """Values stay in 32 bits where this times the largest magnitude on the samples is out of range."""
    keep: tuple[str, ...] = ()
    """Operators that stay in 32 bits whatever the samples say."""

    @abstractmethod
    def storage(self) -> DType:
        """The type."""

    @abstractmethod
    def needs_samples(self) -> bool:
        """Whether the type's range is smaller than float32's."""

    def run(self, model: Model, r: Rewriter) -> None:
        target = r.ctx.target
        if target is None or self.feature not in target.features:
            r.ctx.note(f"the target has no arithmetic in {self.storage().numpy_name}: it would be slower, not faster")
            return
        allowed = _PRODUCTS | _MOVEMENT | _ARITHMETIC | (_ON_GPU if target.arch == "cuda" else _names(""))
        allowed -= set(self.keep)
        candidates = {g: [n for n in g if _is_candidate(n, allowed)] for g in model.all_graphs()}
        ranges = self._ranges(model, [n for nodes in candidates.values() for n in nodes], r)
        if ranges is None:
            return
        for graph, nodes in candidates.items():
            safe = {n: _gain(n) for n in nodes if self._is_safe(n, ranges, r)}
            self._convert(graph, best_half(graph, safe), r)

    def _ranges(self, model: Model, nodes: Sequence[Node], r: Rewriter) -> Mapping[Value, float] | None:
        """Largest magnitudes by value; ``None`` where they are needed and cannot be had."""
        values = dict.fromkeys(v for n in nodes for v in (*n.inputs, *n.outputs) if v is not None and _is_data(v))
        if not self.needs_samples() or not values:
            return {}
        if r.ctx.observe is None:
            r.ctx.note("what is safe is found by the ranges on samples: give some (--samples FILE)")
            return None
        names = value_names(model)
        found: Statistics = r.ctx.observe(model, [Want(names[v], Kind.RANGE) for v in values])
        ranges: dict[Value, float] = {}
        for value in values:
            seen = found.get(names[value])
            if seen is not None and not seen.nan and not seen.infinite:
                ranges[value] = seen.absmax
        return ranges

    def _is_safe(self, node: Node, ranges: Mapping[Value, float], r: Rewriter) -> bool:
        limit = LARGEST[self.storage()] / self.margin
        for value in (*node.inputs, *node.outputs):
            if value is None or value.dtype is not DType.F32:
                continue
            try:
                if value.data is not None:
                    self._require_storable(value)
                elif self.needs_samples() and not ranges.get(value, np.inf) <= limit:
                    reach = ranges.get(value)
                    raise NoMatch("was not observed" if reach is None else f"reaches {reach:.4g}")
            except NoMatch as declined:
                if r.ctx.trace:
                    r.ctx.note(f"{node.op} stays in float32: %{value.name} {declined.reason}")
                return False
        return True

    def _require_storable(self, value: Value) -> None:
        """Raises ``NoMatch`` where a constant would be out of range or lose its small numbers."""
        assert value.data is not None
        wide = value.data.numpy()
        with np.errstate(over="ignore"):
            narrow = wide.astype(self.storage().numpy).astype(np.float32)
        if not np.isfinite(narrow).all():
            raise NoMatch("holds numbers out of range")
        if relative_errors(wide, narrow)[0] > 2 * self.rounding:
            raise NoMatch("holds numbers too small")

    def _convert(self, graph: Graph, nodes: list[Node], r: Rewriter) -> None:
        for region in connected(nodes, lambda v: v.dtype is DType.F32):
            products = sum(n.op in _PRODUCTS for n in region)
            if not products:
                continue
            saved = sum(v.data.nbytes // 2 for v in _constants(region) if v.data is not None)
            error = self.rounding * len(region) ** 0.5
            if not r.take(self.name, region[0], error=error, saved_bytes=saved) or not r.allow(region[0]):
                continue
            Converter(r, self.storage()).convert(region)


class Converter:
    """Makes nodes of one graph compute in another float type."""

    def __init__(self, r: Rewriter, dtype: DType) -> None:
        self.r, self.dtype = r, dtype
        self.narrow: dict[Value, Value] = {}
        """Values of 32 bits and what they are in 16."""

    def convert(self, nodes: Sequence[Node]) -> None:
        """``nodes`` in order. What is used in 32 bits is cast back, what is used in 16 bits alone is not."""
        backs: list[Value] = []
        for node in nodes:
            self.r.begin(node, tuple(node.origin or ((node.name,) if node.name else ())))
            operands = [v if v is None or v.dtype is not DType.F32 else self._narrowed(v) for v in node.inputs]
            found = again(self.r, node, *operands, _outputs=len(node.outputs))
            outputs: list[Value] = [found] if len(node.outputs) == 1 else found
            wide = [self._back(old, new) for old, new in zip(node.outputs, outputs, strict=True)]
            backs += wide
            self.r.replace(node, wide)
        for value in backs:
            if value.producer is not None and not value.uses and value.producer.op == "Cast":
                self.r.erase(value.producer)

    def _narrowed(self, value: Value) -> Value:
        if value not in self.narrow:
            if value.data is not None:
                array = value.data.numpy().astype(self.dtype.numpy)
                found = self.r.const(ArrayConstant(array, self.dtype), name=f"{value.name}/{self.dtype.text}")
            else:
                found = self.r.Cast(value, to=self.dtype.code)
            self.narrow[value] = found
        return self.narrow[value]

    def _back(self, old: Value, new: Value) -> Value:
        if old.dtype is not DType.F32:
            return new
        wide: Value = self.r.Cast(new, to=DType.F32.code)
        self.narrow[wide] = new
        return wide


def _is_data(value: Value) -> bool:
    return value.dtype is DType.F32 and value.data is None


def _is_candidate(node: Node, allowed: frozenset[str]) -> bool:
    """Moves or computes floats, as an operator that has a kernel of 16 bits."""
    if node.domain or node.op not in allowed or not node.outputs or node.outputs[0].dtype is not DType.F32:
        return False
    first = node.inputs[1] if node.op == "Where" else node.inputs[0]
    return first is not None and first.dtype is DType.F32


def _gain(node: Node) -> float:
    if node.op in _MOVEMENT:
        return 1.0
    return elements_of(node.output) * (_PRODUCT_GAIN if node.op in _PRODUCTS else 1.0)


def _constants(nodes: Sequence[Node]) -> list[Value]:
    found = dict.fromkeys(v for n in nodes for v in n.inputs if v is not None and v.dtype is DType.F32)
    return [v for v in found if v.data is not None]
