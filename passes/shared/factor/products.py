"""Products with constant matrices, seen alike: rows ``y = x W + b`` of MatMul, Gemm and 1x1 Conv.

A :class:`Product` says where its rows lie and emits further products of the same form, so that a pass only deals with
matrices [K, N].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....ir.constants import ArrayConstant
from ....ir.graph import Graph, Model, Node, Value
from ...rewrite.rewriter import Rewriter
from ...rewrite.rule import NoMatch
from ..affine import channel_vector, rounded
from ..linear import linear_of

Array = np.ndarray[Any, Any]
OPS = ("MatMul", "Gemm", "Conv")
OPSET = 11
"""Since then negative axes are allowed everywhere, and the bias of a Gemm may be left out."""


@dataclass(frozen=True, eq=False)
class Product:
    """One node that multiplies rows with a constant matrix. Compares by identity."""

    node: Node
    x: Value
    weight: Value
    k: int
    n: int
    bias: Value | None
    """Constant with one number for each output, of the node or of the Add behind it."""
    add: Node | None
    """The Add behind a MatMul that adds ``bias``."""
    residual: Value | None
    """What a Gemm adds beside, of any shape."""

    @property
    def kind(self) -> str:
        return self.node.op

    @property
    def axis(self) -> int:
        """Along which the rows lie, in ``x`` and in the result."""
        return 1 if self.kind == "Conv" else -1

    @property
    def takes_bias(self) -> bool:
        """Whether a bias costs no node."""
        return self.kind == "Conv" or (self.kind == "Gemm" and self.residual is None) or self.bias is not None

    @property
    def transposed(self) -> bool:
        """Whether the constant holds ``W^T``."""
        return self.kind == "Conv" or bool(self.kind == "Gemm" and self.node.attr("transB"))

    def matrix(self) -> Array:
        """``W`` [K, N] in float64, ``alpha`` of a Gemm included. Raises ``NoMatch`` for NaN and infinities."""
        assert self.weight.data is not None
        array = self.weight.data.numpy().astype(np.float64)
        if not np.isfinite(array).all():
            raise NoMatch(f"the weight %{self.weight.name} holds NaN or infinities")
        return self.as_matrix(array)

    def as_matrix(self, stored: Array) -> Array:
        """[K, N] from a weight as the node has it, ``alpha`` of a Gemm included."""
        flat = stored.reshape(stored.shape[:2]) if self.kind == "Conv" else stored
        return (flat.T if self.transposed else flat) * self._alpha

    def stored(self, matrix: Array) -> ArrayConstant:
        """The weight as the node has it from [K, N]. Raises ``NoMatch`` where it leaves the range of its type."""
        if not self._alpha:
            raise NoMatch("alpha is 0")
        flat = (matrix.T if self.transposed else matrix) / self._alpha
        return self._rounded(flat.reshape(*flat.shape, *[1] * (self._rank - 2)))

    @property
    def beta(self) -> float:
        """By what a Gemm multiplies its bias."""
        return float(self.node.attr("beta")) if self.kind == "Gemm" else 1.0

    @property
    def _alpha(self) -> float:
        return float(self.node.attr("alpha")) if self.kind == "Gemm" else 1.0

    def bias_vector(self) -> Array:
        """[N], float64, ``beta`` of a Gemm included; zeros where there is none."""
        if self.bias is None:
            return np.zeros(self.n)
        assert self.bias.data is not None
        return np.broadcast_to(self.bias.data.numpy().astype(np.float64).reshape(-1), (self.n,)) * self.beta

    def multiply(
        self,
        r: Rewriter,
        x: Value,
        matrix: Value,
        *,
        bias: Array | None = None,
        add: Value | None = None,
        first: bool = False,
        last: bool = False,
    ) -> Value:
        """Emits ``x matrix + bias + add`` in the node's form.

        ``matrix`` is what :meth:`constant` made. The ``first`` product of ``x`` itself takes the strides and padding of
        a convolution, the ``last`` one the residual of a Gemm.
        """
        vector = None if bias is None else self.constant_bias(r, bias)
        if self.kind == "Conv":
            attrs: dict[str, Any] = dict(self.node.attrs) if first else {}
            y = r.op("Conv", x, matrix, *([] if vector is None else [vector]), **attrs)
            return y if add is None else r.Add(y, add)
        if self.kind == "Gemm":
            if last and self.residual is not None:
                assert vector is None
                assert add is None
                return r.Gemm(x, matrix, self.residual, beta=self.node.attrs.get("beta"))
            assert vector is None or add is None
            return r.Gemm(x, matrix, *(v for v in (vector, add) if v is not None))
        y = r.MatMul(x, matrix)
        if vector is not None:
            y = r.Add(y, vector)
        return y if add is None else r.Add(y, add)

    def require_range(self, *arrays: Array) -> None:
        """Raises ``NoMatch`` where one leaves the range of the weight's type."""
        for array in arrays:
            self._rounded(array)

    def constant(self, r: Rewriter, matrix: Array, suffix: str) -> Value:
        """A matrix [k, n] as a weight of this form."""
        shaped = matrix.T.reshape(*matrix.T.shape, *[1] * (self._rank - 2)) if self.kind == "Conv" else matrix
        return r.const(self._rounded(shaped), name=f"{self.weight.name}/{suffix}")

    def constant_bias(self, r: Rewriter, bias: Array) -> Value:
        """A bias [N] as a constant."""
        return r.const(self._rounded(bias), name=self._bias_name)

    def _rounded(self, array: Array) -> ArrayConstant:
        dtype = self.weight.dtype
        assert dtype is not None
        return rounded(array, dtype)

    @property
    def _rank(self) -> int:
        assert self.weight.data is not None
        return len(self.weight.data.shape)

    @property
    def _bias_name(self) -> str:
        return self.bias.name if self.bias is not None else f"{self.weight.name}_bias"


def product_of(node: Node) -> Product:
    """The view of a node. Raises ``NoMatch`` with the reason where there is none."""
    linear = linear_of(node)
    if node.version < 1 or node.op not in OPS:
        raise NoMatch(f"{node.op} is no product with a constant matrix")
    assert linear.weight.data is not None
    shape = linear.weight.data.shape
    if node.op == "Conv":
        _require_pointwise(node, shape)
    elif len(shape) != 2:
        raise NoMatch(f"the weight has shape {list(shape)}, a matrix is wanted")
    elif linear.side == 0:
        raise NoMatch("the weight is the left operand: it is multiplied with columns")
    elif node.op == "Gemm" and node.attr("transA"):
        raise NoMatch("transA is 1: the rows lie along the first axis")
    turned = node.op == "Conv" or (node.op == "Gemm" and bool(node.attr("transB")))
    n, k = (shape[0], shape[1]) if turned else (shape[1], shape[0])
    bias, add, residual = _bias_of(node, n)
    return Product(node, linear.x, linear.weight, k, n, bias, add, residual)


def _require_pointwise(node: Node, shape: tuple[int, ...]) -> None:
    groups = int(node.attr("group", 1))
    if groups != 1:
        raise NoMatch(f"the convolution has {groups} groups")
    if any(extent != 1 for extent in shape[2:]):
        raise NoMatch(f"the kernel is {'x'.join(map(str, shape[2:]))}, a matrix is wanted")


def _bias_of(node: Node, n: int) -> tuple[Value | None, Node | None, Value | None]:
    """Constant bias, the Add that adds it, and what else is added."""
    if node.op == "MatMul":
        user = node.output.sole_user
        if user is None or user.op != "Add" or user.domain or user.version < 7:
            return None, None, None
        other = user.inputs[1] if user.inputs[0] is node.output else user.inputs[0]
        return (other, user, None) if other is not None and _is_bias(other, n, node) else (None, None, None)
    value = node.input(2)
    if value is None:
        return None, None, None
    return (value, None, None) if _is_bias(value, n, node) else (None, None, value)


def _is_bias(value: Value, n: int, node: Node) -> bool:
    """Whether it is constant with one number for each output, and of the weight's type."""
    weight = node.inputs[1]
    if value.data is None or weight is None or value.dtype is not weight.dtype:
        return False
    try:
        channel_vector(value.data, -1, n, node.output.rank)
    except NoMatch:
        return False
    return True


def readers(model: Model, ops: tuple[str, ...]) -> Iterator[tuple[Node, Value]]:
    """Nodes of these operators with their constant weights, bodies and functions included."""
    for graph in list(model.all_graphs()):
        yield from _readers(graph, ops)


def _readers(graph: Graph, ops: tuple[str, ...]) -> Iterator[tuple[Node, Value]]:
    for node in graph:
        if node.op in ops and not node.domain:
            yield from ((node, v) for v in node.inputs[:2] if v is not None and v.data is not None)


def require_no_factor(node: Node) -> None:
    """Raises ``NoMatch`` where another product stands in front or behind with nothing between them.

    Such a pair is a factorization already, or should be merged into one matrix first.
    """
    x = node.inputs[0]
    if x is not None and _is_product(_through_sum(x)):
        raise NoMatch("its input is the result of another product: merge them or leave them")
    for user, i in node.output.uses:
        direct = i == 0 and _is_product(user)
        if direct or (user.op == "Add" and _sums_part(user) and any(_is_product(u) for u, _ in user.output.uses)):
            raise NoMatch("its result goes straight into another product: merge them or leave them")


def _through_sum(value: Value) -> Node | None:
    """What computes the value; for ``x[kept] + x[rest] t`` of a compact form the product in it."""
    node = value.producer
    if node is not None and node.op == "Add" and _sums_part(node):
        return next((v.producer for v in node.inputs if v is not None and _is_product(v.producer)), None)
    return node


def _sums_part(node: Node) -> bool:
    """Whether an Add adds a product and a part of a Split of the product's own input."""
    makers = [v.producer for v in node.inputs if v is not None]
    split = next((p for p in makers if p is not None and p.op == "Split"), None)
    product = next((p for p in makers if _is_product(p)), None)
    return split is not None and product is not None and product.inputs[0] in split.outputs


def _is_product(node: Node | None) -> bool:
    if node is None or node.domain or node.op not in (*OPS, "ConvTranspose") or len(node.inputs) < 2:
        return False
    return node.inputs[1] is not None and node.inputs[1].data is not None
