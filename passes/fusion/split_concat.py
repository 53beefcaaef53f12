"""Split a convolution of a concatenation whose number of channels kernels do not take.

    Conv(Concat(a, b); [W1 W2]) = Conv(a; W1) + Conv(b; W2)

**Why** ONNX Runtime's blocked convolutions take channels in fours, or fewer than a vector holds: 33 = 1 + 32 channels
go through im2col, while 1 and 32 each have a kernel, and the second adds the first one's result as it goes.
**Needs** two tensors along the channels, nothing else using the concatenation; one group, constant weight.
**Leaves** numbers of channels that a kernel takes, parts that it does not take either.
**Numbers** reassociates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter, Rule
from ..rewrite.rewriter import origin_of
from ..shared.blocked import lanes_of


@dataclass
class SplitConcat(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES
    lanes: int = 0
    """Lanes of a vector; 0 asks the target."""

    def rules(self) -> Iterable[NodeRule | Rule]:
        yield ConvOfConcat(self.lanes)


class ConvOfConcat(NodeRule):
    """A convolution of two tensors that are concatenated."""

    roots = ("Conv",)

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes

    def apply(self, r: Rewriter, node: Node) -> Value:
        x, weight, bias = node.inputs[0], node.input(1), node.input(2)
        concat = x.producer if x is not None else None
        if x is None or concat is None or concat.op != "Concat" or concat.domain or concat.graph is not node.graph:
            raise NoMatch("no Concat in front")
        if len(x.uses) != 1 or x.rank is None or concat.attr("axis") not in (1, 1 - x.rank):
            raise NoMatch(f"%{x.name} has another user, or is not concatenated along the channels")
        if weight is None or weight.data is None or weight.dtype is not DType.F32 or node.attr("group", 1) != 1:
            raise NoMatch("the weight is not an f32 constant of one group")
        a, b = _two(concat)
        first, second, total = _channels(a), _channels(b), weight.data.shape[1]
        lanes = self.lanes or lanes_of(r.ctx.target)
        if first + second != total or _taken(total, lanes):
            raise NoMatch(f"{total} channels have a kernel")
        if not (_taken(first, lanes) and _taken(second, lanes)):
            raise NoMatch(f"neither have {first} and {second} channels")
        if first > second:
            # The smaller one first: the other one adds to it, in the blocked layout.
            first, order = second, ((b, total - second, total), (a, 0, total - second))
        else:
            order = ((a, 0, first), (b, first, total))
        r.begin(node, origin_of([concat, node]))
        attrs: dict[str, Any] = dict(node.attrs)
        parts = [
            r.Conv(
                value,
                r.const(weight.numpy()[:, begin:end], name=weight.name),
                *((bias,) if bias is not None and i else ()),
                **attrs,
            )
            for i, (value, begin, end) in enumerate(order)
        ]
        return r.Add(parts[1], parts[0])


def _two(concat: Node) -> tuple[Value, Value]:
    values = [v for v in concat.inputs if v is not None]
    if len(values) != 2:
        raise NoMatch(f"{len(values)} tensors are concatenated, expected 2")
    return values[0], values[1]


def _channels(value: Value) -> int:
    found = value.shape[1] if value.shape is not None and len(value.shape) > 2 else None
    if not isinstance(found, int):
        raise NoMatch(f"%{value.name} has an unknown number of channels")
    return found


def _taken(channels: int, lanes: int) -> bool:
    """Whether blocked kernels take so many input channels."""
    return channels < lanes or channels % 4 == 0
