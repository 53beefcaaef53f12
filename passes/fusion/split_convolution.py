"""Split a convolution whose result is only seen in parts into one convolution for each part.

    Split(f(Conv(x; [W1; W2])))  =  f(Conv(x; W1)), f(Conv(x; W2))                  f elementwise or nothing

The same for Slices along the channels (and other axes) that together cover no channel twice.

**Why** on ONNX Runtime a Split takes tensors out of the blocked layout of convolutions: two reorderings and a copy cost
more than reading the input twice.
**Needs** constant weights, one group, all users of the result parts of its channels with a stride of one.
**Leaves** results that something sees as a whole, parts that overlap, few-channel results where a part is less than a
quarter of a vector.
**Numbers** exact, except that a runtime may choose another kernel for another number of channels: reassociates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, TypeAlias

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import MODIFIED, NodeRule, NoMatch, Rewriter, Rule
from ..rewrite.rewriter import origin_of
from ..rewrite.rule import Replacement
from ..shared.activations import CONTRIB, qualified
from ..shared.operands import constant_ints, int_list, int_operand

_POINTWISE = CONTRIB | frozenset(
    "Relu Sigmoid HardSigmoid Tanh Clip LeakyRelu HardSwish Gelu Mish Swish Elu Softplus".split()
)
_LONGEST = 4
"""Activations between the convolution and its parts."""


@dataclass
class SplitConvolution(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES
    least: int = 4
    """Smallest number of channels of a part."""

    def rules(self) -> Iterable[NodeRule | Rule]:
        yield Parts(self.least)


class Parts(NodeRule):
    """Anchored at the convolution."""

    roots = ("Conv",)

    def __init__(self, least: int) -> None:
        self.least = least

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        weight, bias = node.input(1), node.input(2)
        if (
            weight is None
            or weight.data is None
            or weight.dtype is not DType.F32
            or (bias is not None and bias.data is None)
        ):
            raise NoMatch("the weight or the bias is not an f32 constant")
        if node.attr("group", 1) != 1:
            raise NoMatch("a grouped convolution")
        channels = weight.data.shape[0]
        between, last = _pointwise_behind(node)
        parts = _parts(last, channels)
        if len(parts) < 2:
            raise NoMatch("one part")
        for begin, end in parts:
            if end - begin < self.least:
                raise NoMatch(f"a part of {end - begin} channels, at least {self.least} are wanted")
        _check_disjoint(list(parts))
        users: dict[Node, None] = {}
        for (begin, end), views in parts.items():
            first = views[0].user
            r.begin(first, origin_of([node, first]))
            y = _part(r, node, begin, end, between)
            for view in views:
                r.replace_value(view.out, y if view.rest is None else r.Slice(y, *(np.array(v) for v in view.rest)))
                users[view.user] = None
        for user in users:
            if not user.erased and not any(o.uses for o in user.outputs):
                r.erase(user)
        return MODIFIED


def _pointwise_behind(node: Node) -> tuple[list[tuple[Node, Value | None]], Value]:
    """What happens to every element of the result, and the value that is taken apart.

    Each step is a node and, for ``x * f(x)``, the factor ``f(x)``'s node in front of it.
    """
    value, steps = node.output, list[tuple[Node, Value | None]]()
    for _ in range(_LONGEST):
        users = list(dict.fromkeys(value.users))
        if len(users) == 1 and qualified(users[0]) in _POINTWISE and users[0].graph is node.graph:
            act = users[0]
            if any(v is not None and v.data is None for v in act.inputs[1:]):
                break
            steps.append((act, None))
            value = act.output
            continue
        gated = _gate(users, value)
        if gated is None:
            break
        act, product = gated
        steps.extend([(act, None), (product, value)])
        value = product.output
    return steps, value


def _gate(users: list[Node], value: Value) -> tuple[Node, Node] | None:
    """``Sigmoid`` and ``Mul`` of ``x * sigmoid(x)`` (or HardSigmoid), if they are all users of ``x``."""
    if len(users) != 2 or any(u.domain or u.graph is not value.owner for u in users):
        return None
    for act, product in (users, users[::-1]):
        gates = act.op in ("Sigmoid", "HardSigmoid") and act.output.sole_user is product
        if gates and product.op == "Mul" and {*product.inputs} == {value, act.output}:
            return act, product
    return None


_Rest: TypeAlias = tuple[list[int], list[int], list[int]]
"""Starts, ends and axes of a Slice."""


@dataclass(frozen=True)
class _View:
    """A result that holds a range of channels, cut further along other axes where ``rest`` is given."""

    out: Value
    user: Node
    rest: _Rest | None = None


def _parts(value: Value, channels: int) -> dict[tuple[int, int], list[_View]]:
    """What holds each range of channels."""
    found: dict[tuple[int, int], list[_View]] = {}
    rank = value.rank
    if not value.uses:
        raise NoMatch("nothing uses the result")
    for user, i in list(value.uses):
        if user.domain or i != 0 or user.graph is not value.owner or user.op not in ("Split", "Slice") or rank is None:
            raise NoMatch(f"%{value.name} is used as a whole by {user.op}")
        if user.op == "Slice":
            part, rest = _slice_range(user, rank, channels)
            found.setdefault(part, []).append(_View(user.output, user, rest))
            continue
        for part, out in zip(_split_ranges(user, rank, channels), user.outputs, strict=True):
            if out.uses:
                found.setdefault(part, []).append(_View(out, user))
    return found


def _split_ranges(node: Node, rank: int, channels: int) -> list[tuple[int, int]]:
    if int(node.attr("axis", 0)) % rank != 1:
        raise NoMatch("Split along another axis")
    sizes = int_list(node, "split", 1)
    if sizes is None:
        if node.input(1) is not None:
            raise NoMatch("the sizes of Split are not constant")
        each = -(-channels // len(node.outputs))
        sizes = [min(each, channels - i * each) for i in range(len(node.outputs))]
    ends = np.cumsum(sizes).tolist()
    if ends[-1] != channels or len(ends) != len(node.outputs):
        raise NoMatch(f"Split into {sizes} of {channels} channels")
    return [(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _slice_range(
    node: Node, rank: int, channels: int
) -> tuple[tuple[int, int], tuple[list[int], list[int], list[int]] | None]:
    if node.version < 10:
        raise NoMatch(f"Slice of opset {node.version}")
    starts, ends, axes = (int_operand(node, i) for i in (1, 2, 3))
    steps = constant_ints(node.input(4)) if node.input(4) is not None else None
    if (
        starts is None
        or ends is None
        or axes is None
        or (node.input(4) is not None and (steps is None or set(steps) != {1}))
    ):
        raise NoMatch("Slice is not constant, or its step is not 1")
    places = [i for i, a in enumerate(axes) if a % rank == 1]
    if len(places) != 1:
        raise NoMatch("Slice takes all channels")
    at = places[0]
    begin, end = (min(max(v + channels if v < 0 else v, 0), channels) for v in (starts[at], ends[at]))
    if begin >= end:
        raise NoMatch("an empty Slice")
    rest = tuple([v for i, v in enumerate(values) if i != at] for values in (starts, ends, axes))
    return (begin, end), (rest[0], rest[1], rest[2]) if rest[2] else None


def _check_disjoint(ranges: list[tuple[int, int]]) -> None:
    ordered = sorted(ranges)
    for (_, end), (begin, _) in pairwise(ordered):
        if begin < end:
            raise NoMatch("the parts overlap")


def _part(r: Rewriter, node: Node, begin: int, end: int, between: list[tuple[Node, Value | None]]) -> Value:
    weight, bias = node.inputs[1], node.input(2)
    assert weight is not None
    operands = [r.const(weight.numpy()[begin:end], name=weight.name)]
    if bias is not None:
        operands.append(r.const(bias.numpy()[begin:end], name=bias.name))
    y: Value = r.Conv(node.inputs[0], *operands, **node.attrs)
    before = y
    for act, product_of in between:
        if product_of is None:
            attrs: dict[str, Any] = dict(act.attrs)
            before, y = y, r.op(qualified(act), y, *act.inputs[1:], **attrs)
        else:
            y = r.Mul(before, y)
    return y
