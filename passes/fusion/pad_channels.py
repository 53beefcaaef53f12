"""Pad the channels between convolutions with zeros, up to a number that blocked kernels take.

    y = W2 f(W1 x) = [W2 0] f([W1; 0] x)         f elementwise with f(0) finite, pooling, or a depthwise convolution

A region grows from the input of a convolution, back to the convolutions that compute it and forward to all users: every
value in it gets the same additional channels, which the last convolutions multiply by zero.

**Why** ONNX Runtime's blocked convolutions need input channels in fours, its blocked poolings in whole vectors, and
1x1 convolutions of less than a vector read a reordered copy; otherwise a convolution goes through im2col: 129 channels
take three times as long as 132, and padding 8 to 16 saves MobileNetV3 7 %.
**Needs** f32, constant weights; a region of convolutions, activations, sums and products, poolings, whose channels
nothing else sees; at most ``growth`` times as many channels.
**Leaves** channels that reach a graph output, a Reshape, a Concat; functions that are not finite at zero (Log,
Reciprocal); grouped convolutions other than depthwise.
**Numbers** reassociates (products with zero are added).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import RETURN, Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import MODIFIED, NodeRule, NoMatch, Rewriter, Rule
from ..rewrite.rewriter import origin_of
from ..rewrite.rule import Replacement
from ..shared.activations import CONTRIB, qualified
from ..shared.blocked import lanes_of

_ALIGN = 4
_LARGEST_REGION = 64
_UNARY = frozenset(
    "Relu Sigmoid HardSigmoid Tanh Clip Sqrt Abs Neg HardSwish LeakyRelu Elu Gelu Softplus Erf Exp Identity".split()
)
"""Finite at zero."""
_BINARY = frozenset({"Add", "Mul", "Sub"})
_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})


@dataclass
class PadChannels(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES
    spreads: ClassVar[bool] = True
    lanes: int = 0
    """Lanes of a vector; 0 asks the target."""
    growth: float = 2.0
    """Largest factor by which the channels may grow."""

    def rules(self) -> Iterable[NodeRule | Rule]:
        yield Region(self.lanes, self.growth)


@dataclass
class _Region:
    """Values with ``channels`` channels in common, the nodes that compute them, and the convolutions that end it."""

    channels: int
    values: dict[Value, None] = field(default_factory=dict[Value, None])
    inside: dict[Node, None] = field(default_factory=dict[Node, None])
    ends: dict[Node, None] = field(default_factory=dict[Node, None])

    @property
    def pointwise(self) -> bool:
        """Whether the convolutions that end it have kernels of one element: padding costs them little."""
        return all(math.prod(_weight(n).shape[2:]) == 1 for n in self.ends)

    @property
    def pools(self) -> bool:
        return any(n.op in _POOLS for n in self.inside)


class Region(NodeRule):
    """Anchored at a convolution whose input has an odd number of channels."""

    roots = ("Conv",)

    def __init__(self, lanes: int, growth: float) -> None:
        self.lanes, self.growth = lanes, growth

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        channels = _input_channels(node)
        lanes = self.lanes or lanes_of(r.ctx.target)
        if channels % lanes == 0:
            raise NoMatch(f"{channels} input channels fill vectors of {lanes}")
        region = _Region(channels)
        x = node.inputs[0]
        assert x is not None
        _grow(region, x, node)
        unit = lanes if region.pools or channels < lanes else _ALIGN
        wanted = -(-channels // unit) * unit
        if wanted == channels:
            raise NoMatch(f"{channels} channels need no padding here")
        if channels < lanes and not region.pointwise:
            raise NoMatch(f"{channels} channels, fewer than {lanes}, have a kernel that reads them unpadded")
        if wanted > self.growth * channels:
            raise NoMatch(f"{channels} channels would become {wanted}, more than {self.growth} times as many")
        _emit(r, region, wanted - channels)
        return MODIFIED


def _weight(node: Node) -> np.ndarray[Any, Any]:
    weight, bias = node.input(1), node.input(2)
    if weight is None or weight.data is None or weight.dtype is not DType.F32 or len(weight.data.shape) < 3:
        raise NoMatch("the weight of a convolution is not an f32 constant")
    if bias is not None and bias.data is None:
        raise NoMatch("the bias of a convolution is not a constant")
    return weight.numpy()


def _input_channels(node: Node) -> int:
    shape = _weight(node).shape
    if node.attr("group", 1) != 1:
        raise NoMatch("a grouped convolution")
    return shape[1]


def _is_depthwise(node: Node, channels: int) -> bool:
    weight = _weight(node)
    return node.attr("group", 1) == channels == weight.shape[0] and weight.shape[1] == 1


# -- growing


def _grow(region: _Region, start: Value, root: Node) -> None:
    stack = [start]
    while stack:
        value = stack.pop()
        if value in region.values:
            continue
        if len(region.values) >= _LARGEST_REGION:
            raise NoMatch(f"the region has more than {_LARGEST_REGION} values")
        shape = value.shape
        if value.dtype is not DType.F32 or shape is None or len(shape) < 3 or shape[1] != region.channels:
            raise NoMatch(f"%{value.name} is {value.type}, expected f32 with {region.channels} channels")
        if not value.uses:
            raise NoMatch(f"%{value.name} is computed for nothing, and would keep the narrow region")
        region.values[value] = None
        producer = value.producer
        if producer is None or producer.graph is not root.graph or len(producer.outputs) != 1:
            raise NoMatch(f"%{value.name} is not computed by one node of this graph")
        stack.extend(_behind(region, producer))
        for user, i in value.uses:
            stack.extend(_ahead(region, value, user, i, root))


def _behind(region: _Region, node: Node) -> list[Value]:
    """Operands of the producer that belong to the region too."""
    if node.domain and qualified(node) not in CONTRIB:
        raise NoMatch(f"{node.op} of domain {node.domain}")
    region.inside[node] = None
    if node.op == "Conv":
        if node.attr("group", 1) == 1:
            _weight(node)
            return []
        if not _is_depthwise(node, region.channels):
            raise NoMatch("a grouped convolution that is not depthwise")
        return _operands(node, 1)
    if node.op in _UNARY or node.op in _POOLS or node.domain:
        return _operands(node, 1)
    if node.op in _BINARY:
        return [v for v in _operands(node, 2) if _carries(v, node)]
    raise NoMatch(f"{node.op} computes channels")


def _operands(node: Node, count: int) -> list[Value]:
    found = [v for v in node.inputs[:count] if v is not None]
    if len(found) < count:
        raise NoMatch(f"{node.op} lacks an operand")
    return found


def _carries(value: Value, node: Node) -> bool:
    """Whether an operand of an elementwise operator has the channels (constants are padded by themselves)."""
    if value.data is not None:
        return False
    if value.shape is None or value.rank != node.output.rank:
        raise NoMatch(f"%{value.name} is {value.type}: not known to have channels where {node.op} has them")
    return value.shape[1] != 1


def _ahead(region: _Region, value: Value, user: Node, i: int, root: Node) -> list[Value]:
    """Results of a user that belong to the region too."""
    if user.op == RETURN or user.graph is not root.graph or len(user.outputs) != 1:
        raise NoMatch(f"%{value.name} is used by {user.op}")
    if user.domain:
        if qualified(user) not in CONTRIB:
            raise NoMatch(f"%{value.name} is used by {qualified(user)}")
        return [user.output]
    if user.op == "Conv" and i == 0:
        if user.attr("group", 1) == 1:
            _weight(user)
            region.ends[user] = None
            return []
        return [user.output]
    if (user.op in _UNARY or user.op in _POOLS) and i == 0:
        return [user.output]
    if user.op in _BINARY:
        return [user.output]
    raise NoMatch(f"%{value.name} is used by {user.op}")


# -- emitting


def _emit(r: Rewriter, region: _Region, more: int) -> None:
    new: dict[Value, Value] = {}
    graph = next(iter(region.ends)).graph
    assert graph is not None
    order = [n for n in graph if n in region.inside or n in region.ends]
    for node in order:
        if node in region.inside:
            r.begin(node, origin_of([node]))
            new[node.output] = _padded(r, region, node, new, more)
        else:
            r.begin(node, origin_of([node]))
            x, weight = node.inputs[0], node.inputs[1]
            assert x is not None
            assert weight is not None
            padded = r.const(_pad(weight.numpy(), 1, more), name=weight.name)
            r.replace(node, r.Conv(new[x], padded, *node.inputs[2:], **node.attrs))


def _padded(r: Rewriter, region: _Region, node: Node, new: dict[Value, Value], more: int) -> Value:
    x = node.inputs[0]
    if node.op == "Conv":
        weight, bias = _pad(_weight(node), 0, more), node.input(2)
        name = node.inputs[1].name if node.inputs[1] is not None else ""
        attrs: dict[str, Any] = dict(node.attrs)
        depthwise = node.attr("group", 1) != 1
        if depthwise:
            attrs["group"] = region.channels + more
        elif node in region.ends:
            assert x is not None
            weight = _pad(weight, 1, more)
        source = new[x] if x in new and (depthwise or node in region.ends) else x  # pyright: ignore[reportArgumentType]
        operands = [r.const(weight, name=name)]
        if bias is not None:
            operands.append(r.const(_pad(bias.numpy(), 0, more), name=bias.name))
        return r.Conv(source, *operands, **attrs)
    values = [None if v is None else _operand(v, node, region.channels, new, more) for v in node.inputs]
    attrs: dict[str, Any] = dict(node.attrs)
    return r.op(qualified(node), *values, **attrs)


def _operand(value: Value, node: Node, channels: int, new: dict[Value, Value], more: int) -> Any:
    """An operand with the additional channels, where it has channels."""
    rank = node.output.rank
    if value.data is None or node.op not in _BINARY or rank is None:
        return new.get(value, value)
    shape = value.data.shape
    axis = len(shape) - (rank - 1)
    return _pad(value.numpy(), axis, more) if axis >= 0 and shape[axis] == channels else value


def _pad(array: np.ndarray[Any, Any], axis: int, more: int) -> np.ndarray[Any, Any]:
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, more)
    return np.pad(array, widths)
