"""Two linear maps one after the other, and the one map that they are.

For convolutions one of the two kernels must be 1x1: ``W[o, c, k] = sum_r second[o, r, k] first[r, c, k]`` with one of
the positions missing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....ir.graph import Node, Value
from ...rewrite.rule import NoMatch
from ..attributes import require_own_attributes
from ..linear import Linear, linear_of

Array = np.ndarray[Any, Any]
OPS = ("MatMul", "Gemm", "Conv")


@dataclass(frozen=True)
class Chain:
    """``first`` feeds ``second`` and nothing else."""

    first: Linear
    second: Linear

    @property
    def x(self) -> Value:
        return self.first.x

    @property
    def is_conv(self) -> bool:
        return self.second.node.op == "Conv"

    @property
    def parameters(self) -> int:
        return sum(m.weight.data.count for m in (self.first, self.second) if m.weight.data is not None)

    def weight_shape(self) -> tuple[int, ...]:
        """Of :meth:`weight`."""
        a, b = _shape(self.first), _shape(self.second)
        if self.is_conv:
            return (b[0], a[1], *(b[2:] if _kernel(self.first) == 1 else a[2:]))
        turned = [m.node.op == "Gemm" and bool(m.node.attr("transB")) for m in (self.first, self.second)]
        return (a[1] if turned[0] else a[0], b[0] if turned[1] else b[1])

    @property
    def count(self) -> int:
        """Parameters of the one map."""
        return math.prod(self.weight_shape())

    def require(self) -> None:
        """Raises :class:`NoMatch` unless the two can be one."""
        if self.first.weight.dtype is not self.second.weight.dtype:
            raise NoMatch(f"the weights are {self.first.weight.dtype!r} and {self.second.weight.dtype!r}")
        _require_forms(self)

    def factors(self) -> tuple[Array, Array]:
        """Both, [K, r] and [r, N] or as Conv has them; float64, ``alpha`` included."""
        return _array(self.first), _array(self.second)

    def weight(self) -> Array:
        """[K, N], or as Conv has it; float64, ``alpha`` included."""
        a, b = self.factors()
        if not self.is_conv:
            made: Array = a @ b
            return made
        if _kernel(self.first) == 1:
            made = np.einsum("or...,rc->oc...", b, a.reshape(a.shape[:2]), optimize=True)
        else:
            made = np.einsum("or,rc...->oc...", b.reshape(b.shape[:2]), a, optimize=True)
        return made

    def bias(self) -> Array | None:
        """What both biases are together, behind the second; ``None`` where neither has one."""
        own = None if self.second.bias is None or not is_bias(self.second) else bias_of(self.second)
        if self.first.bias is None:
            return own
        moved = bias_of(self.first)
        b = _array(self.second)
        moved = b.reshape(*b.shape[:2], -1).sum(axis=2) @ moved if self.is_conv else moved @ b
        return moved if own is None else moved + own

    def attrs(self) -> dict[str, Any]:
        """Of the one convolution."""
        kernel = _kernel(self.second) != 1
        attrs: dict[str, Any] = dict((self.second if kernel else self.first).node.attrs)
        return attrs


def chain_at(node: Node) -> Chain:
    """The chain whose second map is ``node``. Raises :class:`NoMatch`."""
    require_own_attributes(node)
    second = linear_of(node)
    maker = second.x.producer
    if maker is None or maker.domain or maker.op not in (*OPS, "Add"):
        raise NoMatch(f"%{second.x.name} is not the result of a product")
    first = _first(second.x, maker)
    if len(second.x.uses) != 1:
        raise NoMatch(f"%{second.x.name} has another user")
    chain = Chain(first, second)
    chain.require()
    return chain


def _first(value: Value, maker: Node) -> Linear:
    """The product that makes ``value``, with a bias behind it."""
    if maker.op != "Add":
        return linear_of(maker)
    for i in (0, 1):
        product, bias = maker.inputs[i], maker.inputs[1 - i]
        if product is None or bias is None or bias.data is None or product.producer is None:
            continue
        if product.producer.op == "MatMul" and len(product.uses) == 1:
            found = linear_of(product.producer)
            with_bias = Linear(
                found.node, found.weight, bias, maker, found.side, found.axis, found.channels, found.rank
            )
            with_bias.bias_vector()
            return with_bias
    raise NoMatch(f"%{value.name} is not the result of a product")


def _require_forms(chain: Chain) -> None:
    first, second = chain.first, chain.second
    for linear in (first, second):
        node = linear.node
        if node.op not in OPS:
            raise NoMatch(f"{node.op} is no product that can be merged")
        if node.op != "Conv" and (linear.side == 0 or len(_shape(linear)) != 2 or node.attr("transA", 0)):
            raise NoMatch("one of the two is no product of rows with a matrix")
        if linear.groups != 1:
            raise NoMatch(f"one of the convolutions has {linear.groups} groups")
    if (first.node.op == "Conv") != (second.node.op == "Conv"):
        raise NoMatch("a convolution and a matrix product")
    if first.bias is not None and not np.isfinite(bias_of(first)).all():
        raise NoMatch("the bias of the first holds NaN or infinities")
    if chain.is_conv:
        _require_one_kernel(chain)
    elif second.bias is not None and not is_bias(second) and first.bias is not None:
        raise NoMatch("the first adds a bias, the second a residual")


def _require_one_kernel(chain: Chain) -> None:
    first, second = chain.first, chain.second
    if _kernel(first) != 1 and _kernel(second) != 1:
        raise NoMatch("both kernels are larger than 1x1")
    plain, other = (first, second) if _kernel(second) != 1 else (second, first)
    if not _is_plain(plain.node):
        raise NoMatch("the 1x1 convolution has strides or padding")
    if second.bias is not None and not is_bias(second):
        raise NoMatch("the bias is no constant")
    if other is second and first.bias is not None and not _is_unpadded(second.node):
        raise NoMatch("the second pads with zeros what the first adds a bias to")


def _kernel(linear: Linear) -> int:
    return math.prod(_shape(linear)[2:])


def _is_plain(node: Node) -> bool:
    strides: Any = node.attrs.get("strides", ())
    return all(s == 1 for s in strides) and _is_unpadded(node)


def _is_unpadded(node: Node) -> bool:
    pads: Any = node.attrs.get("pads", ())
    return not any(pads) and node.attr("auto_pad", "NOTSET") in ("NOTSET", "", "VALID")


def _shape(linear: Linear) -> tuple[int, ...]:
    assert linear.weight.data is not None
    return linear.weight.data.shape


def _array(linear: Linear) -> Array:
    """Raises :class:`NoMatch` where it is not finite: sums would come out otherwise."""
    assert linear.weight.data is not None
    array = linear.weight.data.numpy().astype(np.float64)
    if not np.isfinite(array).all():
        raise NoMatch(f"the weight %{linear.weight.name} holds NaN or infinities")
    if linear.node.op != "Gemm":
        return array
    return (array.T if linear.node.attr("transB") else array) * float(linear.node.attr("alpha"))


def is_bias(linear: Linear) -> bool:
    """Whether what it adds is constant with one number for each output."""
    try:
        linear.bias_vector()
    except NoMatch:
        return False
    return True


def bias_of(linear: Linear) -> Array:
    """[N], float64. Raises :class:`NoMatch` for a residual."""
    return np.broadcast_to(linear.bias_vector(), (linear.channels or 1,))
