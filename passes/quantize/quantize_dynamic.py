"""quantize-dynamic: products with constant weights on integers, the range of ``x`` taken from each tensor as it comes.

    x W + b  becomes  s_x s_W (Q(x) Q(W)) + b        Q(x): u8, range of the whole tensor; Q(W): a scale per column

``x`` is quantized once for all products that read it (queries, keys and values). On ONNX Runtime the product, the
scales and the bias are one kernel, ``MatMulIntegerToFloat``; standard operators are MatMulInteger, Cast and Mul.

**Why**    no samples are needed, and transformers, whose ranges change with the input, keep their accuracy.
**Needs**  MatMul and Gemm with constant float32 weights of at least ``min-elements``.
**Leaves** convolutions (the runtime's dynamic kernel is several times slower than the float one); products with
           transposed or scaled operands that are not constant; targets without integer kernels.
           Products that stay float are noted with the reason.
**Numbers** approximates: half a step of each number of ``x`` and of the weight. One unit of the error budget each.
**Source** DynamicQuantizeLinear-11, MatMulInteger-10; ONNX Runtime's ContribOperators.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.constants import ArrayConstant, Constant, LazyConstant
from ...ir.dtypes import BY_TEXT, DType
from ...ir.graph import Graph, Model, Node, Value
from ...ir.types import Quant
from ..core import Numbers, Pass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from ..shared.attributes import require_own_attributes
from ..shared.emit import CONTRIB, allows_contrib
from ..shared.quant.rules import rules_for
from ..shared.quant.scheme import Scheme, parameters, stored
from ..shared.quant.weights import weight_error, weight_quant
from ..target import TARGETS

_LAZY_BYTES = 64 << 20
_OPSET = 11
_TYPICAL_ERROR = 0.01
"""Of activations in 8 bits by their own range: what transformers have."""
_PRODUCTS = ("MatMul", "Gemm")


@dataclass
class QuantizeDynamic(Pass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.APPROXIMATES
    proposes: ClassVar[bool] = True

    weights: str = "i8"
    """``i8`` or ``u8``."""
    min_elements: int = 1 << 12
    """Smaller weights stay: quantizing ``x`` costs more than the product gains."""

    def run(self, model: Model, r: Rewriter) -> None:
        rules = rules_for(r.ctx.target or TARGETS["generic"])
        weight = BY_TEXT.get(self.weights)
        if weight is None or not rules.name.startswith("ort-") or not rules.takes(DType.U8, weight):
            r.ctx.note(
                f"nothing is quantized: {rules.name} has no kernel for u8 activations and {self.weights} weights"
            )
            return
        scheme = Scheme(weight, symmetric=True, reduced=rules.reduced_weights and weight is DType.I8)
        work = _Work(self, scheme, r)
        for graph in model.all_graphs():
            for node in list(graph):
                if node.op in _PRODUCTS and not node.domain:
                    work.visit(node)


class _Work:
    """One run."""

    def __init__(self, options: QuantizeDynamic, scheme: Scheme, r: Rewriter) -> None:
        self.options, self.scheme, self.r = options, scheme, r
        self.inputs: dict[tuple[Value, Graph], list[Value]] = {}
        """Integers, scale and zero point of what products read."""
        self.weights: dict[tuple[Value, bool], tuple[Value, Value, Value]] = {}

    def visit(self, node: Node) -> None:
        try:
            self._rewrite(node)
        except NoMatch as declined:
            self.r.ctx.note(f"{node.op} {node.name or node.output.name!r} stays float: {declined.reason}")

    def _rewrite(self, node: Node) -> None:
        """Raises ``NoMatch`` before any change."""
        x, weight, turned = _operands(node, self.options.min_elements)
        assert weight.data is not None
        quant = weight_quant(weight, 0 if turned else 1, self.scheme, self.r.ctx.memo)
        error = math.hypot(_TYPICAL_ERROR, weight_error(weight, quant, self.r.ctx.memo))
        saved = weight.data.nbytes - quant.storage.nbytes(weight.data.count)
        label = f"quantize-dynamic/u8{self.options.weights}"
        if not self.r.take(label, node, error=error, saved_bytes=saved, saved_flops=1):
            return
        if not self.r.allow(node):
            return
        operands = self._weight(node, weight, quant, turned)
        integers = self._input(node, x)
        self.r.begin(node)
        bias = node.input(2)
        fits = bias is not None and bias.shape == (_columns(weight, turned),)
        product = self._product(integers, operands, bias if fits else None)
        if bias is not None and not fits:
            product = self.r.Sum(product, bias)
        self.r.replace(node, product)

    def _weight(self, node: Node, weight: Value, quant: Quant, turned: bool) -> tuple[Value, Value, Value]:
        """[K, N] integers, scales and zero points [N]; one for all products that share the weight."""
        key = (weight, turned)
        if key not in self.weights:
            self.r.begin(node, (weight.name,))
            assert weight.data is not None
            scale, zero = parameters(quant)
            data = _integers(weight.data, quant, turned)
            made = self.r.const(data, name=f"{weight.name}/{quant.storage.text}")
            scales = self.r.const(scale, name=f"{weight.name}/scale")
            self.weights[key] = (made, scales, self.r.const(zero, name=f"{weight.name}/zero"))
        return self.weights[key]

    def _input(self, node: Node, x: Value) -> list[Value]:
        graph = node.graph
        assert graph is not None
        if (x, graph) not in self.inputs:
            self.r.begin(node, (x.name,))
            self.inputs[x, graph] = self.r.op("DynamicQuantizeLinear", x, _outputs=3)
        return self.inputs[x, graph]

    def _product(self, x: list[Value], weight: tuple[Value, Value, Value], bias: Value | None) -> Value:
        integers, scale, zero = x
        made: Value
        if allows_contrib(self.r):
            operands = [integers, weight[0], scale, weight[1], zero, weight[2], *([bias] if bias is not None else [])]
            made = self.r.op(f"{CONTRIB}::MatMulIntegerToFloat", *operands)
            return made
        sums = self.r.Cast(self.r.MatMulInteger(integers, weight[0], zero, weight[2]), to=DType.F32.code)
        made = self.r.Mul(sums, self.r.Mul(scale, weight[1]))
        return made if bias is None else self.r.Add(made, bias)


def _operands(node: Node, min_elements: int) -> tuple[Value, Value, bool]:
    """``x``, the constant weight, and whether that is [N, K]. Raises ``NoMatch``."""
    require_own_attributes(node)
    if node.version < _OPSET:
        raise NoMatch(f"opset {node.version} has no DynamicQuantizeLinear, {_OPSET} has")
    x, weight = node.inputs[0], node.inputs[1]
    if x is None or weight is None or weight.data is None:
        raise NoMatch("no operand is a constant weight on the right")
    if x.data is not None:
        raise NoMatch("both operands are constant")
    if x.dtype is not DType.F32 or weight.rank != 2:
        raise NoMatch(f"it multiplies {x.dtype!r} by a weight of rank {weight.rank}, expected f32 and rank 2")
    if weight.data.count < min_elements:
        raise NoMatch(f"the weight has {weight.data.count} elements, fewer than {min_elements}")
    if node.op == "Gemm":
        bias = node.input(2)
        if node.attr("transA") or node.attr("alpha") != 1.0 or (bias is not None and node.attr("beta") != 1.0):
            raise NoMatch("x is transposed, or there is an alpha or a beta")
        return x, weight, bool(node.attr("transB"))
    return x, weight, False


def _columns(weight: Value, turned: bool) -> int:
    """N."""
    assert weight.data is not None
    return weight.data.shape[0 if turned else 1]


def _integers(data: Constant, quant: Quant, turned: bool) -> Constant:
    def compute() -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        array = stored(data.numpy(), quant)
        return np.ascontiguousarray(array.T) if turned else array

    if data.nbytes < _LAZY_BYTES:
        return ArrayConstant(compute(), quant.storage)
    return LazyConstant(compute, quant.storage, data.shape[::-1] if turned else data.shape)
