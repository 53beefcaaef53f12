"""insert-qdq: writes out what ``assign-quant`` annotated, as pairs of QuantizeLinear and DequantizeLinear.

    y = f(x)  becomes  y = DQ(Q(f(DQ(Q(x)))))

Weights become integer constants behind a DequantizeLinear, biases int32 constants with scale ``s_x * s_w``. A value
has one pair whatever the number of its users. Where the operator that computes it gives integers all users read them;
where it gives floats those that compute in floats keep these. Inputs and outputs of the model stay as they are. For
ONNX Runtime float8 is written as Div, Cast, Cast, Mul: it makes QLinearConv of float8 pairs, and refuses that.

**Why**    the form in which runtimes take quantized models.
**Needs**  annotations (``assign-quant``).
**Leaves** values without users that take integers: their annotation goes.
**Numbers** approximates: what was decided when the annotations were made.
**Source** QuantizeLinear-21; ONNX Runtime's ``qdq_selectors.cc`` for which pairs it fuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.constants import ArrayConstant, Constant, LazyConstant
from ...ir.dtypes import DType
from ...ir.graph import Graph, Model, Node, Value
from ...ir.repetition import compacted
from ...ir.types import Quant
from ..core import Numbers, Pass
from ..memo import Memo
from ..rewrite.rewriter import Rewriter, origin_of
from ..shared.emit import CONTRIB, allows_contrib
from ..shared.quant.forms import shape_for_integers
from ..shared.quant.regions import Regions, regions_of
from ..shared.quant.rules import Output, QuantRules, rules_for
from ..shared.quant.scheme import LARGEST_FLOAT8, Scheme, make_quant, parameters, spread, stored
from ..shared.quant.sites import Site, sites_of
from ..target import TARGETS

_LAZY_BYTES = 64 << 20
"""Weights from here on are rounded when they are written, one at a time."""
_AXIS_OPSET = 13
_BLOCK_OPSET = 21


@dataclass
class InsertQdq(Pass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.APPROXIMATES
    proposes: ClassVar[bool] = True

    def run(self, model: Model, r: Rewriter) -> None:
        annotated = _annotated(model)
        if not annotated:
            if r.ctx.trace:
                r.ctx.note("no value is annotated; assign-quant does that")
            return
        stored = next((q.storage for v in annotated if v.data is None and (q := _quant(v)) is not None), None)
        rules = rules_for(r.ctx.target or TARGETS["generic"], stored)
        if rules.name.startswith("ort-"):
            for site in _sites_at_work(model, rules):
                if site.is_product:
                    shape_for_integers(site, r)
        at_work = [s for s in _sites_at_work(model, rules) if s.residual is None]
        casts = stored in LARGEST_FLOAT8 and (r.ctx.target or TARGETS["generic"]).runtime == "ort"
        work = _Work(regions_of(at_work), rules, r, casts)
        for site in at_work:
            work.insert_constants(site)
        for value in _annotated(model):
            if value.data is None:
                work.insert_pair(value)
            r.annotate(value, None)


def _sites_at_work(model: Model, rules: QuantRules) -> list[Site]:
    return [s for s in sites_of(model, rules)[0].values() if _is_at_work(s)]


def _annotated(model: Model) -> list[Value]:
    return [v for v in _values(model) if _quant(v) is not None]


def _values(model: Model) -> list[Value]:
    found: list[Value] = []
    for graph in model.all_graphs():
        found += [*graph.constants, *graph.inputs]
        found += [out for node in graph for out in node.outputs]
    return found


def _quant(value: Value) -> Quant | None:
    return value.tensor.quant if value.tensor is not None else None


def _is_at_work(site: Site) -> bool:
    """Whether the annotations around an operator make it an integer one."""
    operands = [*site.data, *([site.weight] if site.weight is not None else [])]
    if any(_quant(v) is None for v in operands):
        return False
    if any(_quant(v) is None for v in site.results):
        return site.rule.output is not Output.REQUIRED
    if site.map != (1.0, 0.0):
        return _follows(_quant(site.data[0]), _quant(site.result), *site.map)
    if site.node.op == "HardSigmoid":
        return _begins_at_zero(_quant(site.result))
    if site.rule.equal:
        return all(_quant(v) == _quant(site.data[0]) for v in (*site.data, *site.results))
    return True


def _follows(x: Quant | None, y: Quant | None, gain: float, shift: float) -> bool:
    """Whether the integers of ``x`` are those of ``y = gain * x + shift``, but for half a step."""
    if x is None or y is None or x.storage is not y.storage:
        return False
    moved = x.zero_point[0] - shift / y.scale[0]
    return abs(gain * x.scale[0] - y.scale[0]) <= 1e-6 * y.scale[0] and abs(moved - y.zero_point[0]) < 1.0


def _begins_at_zero(quant: Quant | None) -> bool:
    return quant is not None and quant.zero_point[0] == Scheme(quant.storage, symmetric=False).qmin


class _Work:
    """Emits the nodes."""

    def __init__(self, regions: Regions, rules: QuantRules, r: Rewriter, casts: bool) -> None:
        """``casts``: instead of pairs."""
        self.regions, self.rules, self.r, self.casts = regions, rules, r, casts
        self.constants: dict[tuple[Value, Graph, Quant], Value] = {}
        """What was dequantized in front of the first site of a graph that reads it."""
        self.integers: dict[Value, Value] = {}
        """What a value was quantized to."""

    # -- constants

    def insert_constants(self, site: Site) -> None:
        """Weight, bias and constant activations of a site, as integers."""
        for i, value in enumerate(site.node.inputs):
            if value is None or value.data is None:
                continue
            quant = self._bias_quant(site) if value is site.bias else _quant(value)
            if quant is not None and (value in site.data or value is site.weight or value is site.bias):
                self.r.set_input(site.node, i, self._constant(site.node, value, quant))

    def _bias_quant(self, site: Site) -> Quant | None:
        """int32 with the scale of the products; ``None`` where the target wants floats."""
        assert site.weight is not None
        x, w = _quant(site.data[0]), _quant(site.weight)
        if self.rules.bias is None or x is None or w is None or w.block:
            return None
        scale = np.float32(x.scale[0]) * np.array(w.scale, np.float32)
        axis = None if scale.size == 1 else 0
        return Quant(self.rules.bias, tuple(map(float, scale)), (0,) * scale.size, axis)

    def _constant(self, node: Node, value: Value, quant: Quant) -> Value:
        assert node.graph is not None
        key = (value, node.graph, quant)
        if key not in self.constants:
            self.r.begin(node, (value.name,))
            assert value.data is not None
            made = self.r.const(
                _integers(value.data, quant, self.r.ctx.memo), name=f"{value.name}/{quant.storage.text}"
            )
            operands = self._parameters(value.name, quant, value.data.shape)
            self.constants[key] = self._dequantized(made, quant, operands)
        return self.constants[key]

    # -- activations

    def insert_pair(self, value: Value) -> None:
        """Integers behind ``value`` for those who take them."""
        quant = _quant(value)
        assert quant is not None
        takers = self.regions.takers.get(value, set())
        whole = self.regions.comes_as_integers(value)
        users = [(user, i) for user, i in value.uses if whole or user in takers]
        if not users:
            return
        self.r.begin(_behind(value), _origin(value))
        operands = self._parameters(value.name, quant)
        integers = self.integers[value] = self._quantized(value, quant, operands)
        made: dict[Graph, Value] = {}
        for user, i in users:
            graph = user.graph
            assert graph is not None
            if graph not in made:
                self.r.begin(_behind(integers) if graph is integers.owner else _first(graph), _origin(value))
                made[graph] = self._dequantized(integers, quant, operands)
            self.r.set_input(user, i, made[graph])

    def _quantized(self, value: Value, quant: Quant, operands: tuple[Value, Value]) -> Value:
        maker = self.regions.makers.get(value)
        if maker is not None and maker.map != (1.0, 0.0):  # the same integers, read with other parameters
            return self.integers[maker.data[0]]
        if maker is not None and maker.node.op == "HardSigmoid":
            value, operands = self._clipped_sum(maker.node, quant)
        if self.casts:
            return self.r.Cast(self.r.Div(value, operands[0]), to=quant.storage.code)
        made: Value = self.r.op(self._name("QuantizeLinear", quant), value, *operands)
        return made

    def _clipped_sum(self, node: Node, quant: Quant) -> tuple[Value, tuple[Value, Value]]:
        """``HardSigmoid(x) = a * clip(x + b / a, 0, 1 / a)``: the sum, and parameters that clip it without ``a``."""
        x = node.inputs[0]
        assert x is not None
        gain, shift = float(node.attr("alpha", 0.2)), float(node.attr("beta", 0.5))
        top = Scheme(quant.storage, symmetric=False).qmax
        constant = make_quant(Scheme(quant.storage, symmetric=False), shift / gain / top, 0)
        integers = self.r.const(np.array(top, quant.storage.numpy), name=f"{node.output.name}/shift")
        operands = self._parameters(f"{node.output.name}/shift", constant)
        total = self.r.Add(x, self._dequantized(integers, constant, operands))
        wide = make_quant(Scheme(quant.storage, symmetric=False), quant.scale[0] / gain, quant.zero_point[0])
        return total, self._parameters(f"{node.output.name}/sum", wide)

    def _parameters(self, name: str, quant: Quant, shape: tuple[int, ...] | None = None) -> tuple[Value, Value]:
        scale, zero = parameters(quant, shape)
        if self.casts and quant.axis is not None and shape is not None:
            scale = spread(scale, shape, quant.axis, quant.block, np.float32)
        return self.r.const(scale, name=f"{name}/scale"), self.r.const(zero, name=f"{name}/zero")

    def _dequantized(self, integers: Value, quant: Quant, operands: tuple[Value, Value]) -> Value:
        if self.casts:
            return self.r.Mul(self.r.Cast(integers, to=DType.F32.code), operands[0])
        attrs: dict[str, Any] = {}
        if quant.axis is not None:
            attrs["axis"] = quant.axis
        if quant.block:
            attrs["block_size"] = quant.block
        made: Value = self.r.op(self._name("DequantizeLinear", quant), integers, *operands, **attrs)
        return made

    def _name(self, op: str, quant: Quant) -> str:
        """The standard operator, or ONNX Runtime's where the model's opset lacks the type or the axis."""
        needed = self.rules.native_opset.get(quant.storage, 10)
        if quant.axis is not None:
            needed = max(needed, _BLOCK_OPSET if quant.block else _AXIS_OPSET)
        return op if self.r.opset() >= needed or not allows_contrib(self.r) else f"{CONTRIB}::{op}"


def _integers(data: Constant, quant: Quant, memo: Memo) -> Constant:
    if data.nbytes < _LAZY_BYTES:
        key = ("integers", data.digest(), quant)
        return memo.get(key, lambda: compacted(ArrayConstant(_stored(data, quant), quant.storage)), lambda c: c.nbytes)
    return LazyConstant(lambda: _stored(data, quant), quant.storage, data.shape)


def _stored(data: Constant, quant: Quant) -> np.ndarray[Any, Any]:
    if quant.storage is not DType.I32:
        return stored(data.numpy(), quant)
    scale = np.array(quant.scale, np.float64)
    return np.rint(data.numpy() / scale).astype(np.int32)


def _behind(value: Value) -> Node:
    """The node in front of which everything that needs ``value`` can stand first."""
    graph = value.owner
    assert graph is not None
    return _first(graph) if value.producer is None else value.producer.next or graph.ret


def _first(graph: Graph) -> Node:
    return next(iter(graph), graph.ret)


def _origin(value: Value) -> tuple[str, ...]:
    return (origin_of([value.producer]) if value.producer is not None else ()) or (value.name,)
