"""Fuse scales and shifts per channel that no product could take into one BatchNormalization.

    g2 (g1 x + s1) + s2 = (g2 g1) x + (g2 s1 + s2) = BatchNormalization(x; scale = g2 g1, shift = g2 s1 + s2)

for Mul, Div, Add, Sub, Neg by constants of one number or one number per channel, and BatchNormalization.

**Why** one pass over the tensor for two or more; and on ONNX Runtime a BatchNormalization stays in the blocked layout
of convolutions and takes the activation behind it, where a Mul or Add by a constant costs two reorderings.
**Needs** two such nodes in a row with several channels or a convolution nearby, or one between convolutions (and
what keeps their layout); rank 4, axis 1 the channels, their number known; no other user in between.
**Leaves** what stands directly behind or in front of a product that can take it (other passes fold it there), training
mode, constants along other axes, a single BatchNormalization, the last node of a spelled-out Gelu or norm (the runtime
fuses those).
**Numbers** reassociates; computed in float64, rounded once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter, Rule
from ..rewrite.rewriter import origin_of
from ..shared.affine import Affine, batchnorm_affine, elementwise_affine, rounded
from ..shared.blocked import is_blocked_producer, is_blocked_user
from ..shared.linear import compose
from ..shared.protected import require_not_part

_MAPS = ("Mul", "Add", "Sub", "Div", "Neg")
_EPSILON = 1e-5
_LONGEST = 32


@dataclass
class FuseAffineChain(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule | Rule]:
        yield Chain()


class Chain(NodeRule):
    """Anchored at the last node of the chain."""

    roots = (*_MAPS, "BatchNormalization")

    def apply(self, r: Rewriter, node: Node) -> Value:
        if r.opset() < 7:
            raise NoMatch(f"opset {r.opset()} has no BatchNormalization for inference only")
        channels = _channels(node.output)
        x, affine = _step(node, channels)
        require_not_part(node)
        user = node.output.sole_user
        if user is not None and user.graph is node.graph and _is_step(user, channels):
            raise NoMatch("the chain goes on behind")
        nodes, maps = [node], [affine]
        while len(nodes) < _LONGEST:
            producer = x.producer
            if (
                producer is None
                or len(x.uses) != 1
                or producer.graph is not node.graph
                or _channels_or_none(x) != channels
            ):
                break
            try:
                step = _step(producer, channels)
                require_not_part(producer)
            except NoMatch:
                break
            x, affine = step
            nodes.append(producer)
            maps.append(affine)
        _require_gain(nodes, channels, x)
        r.begin(node, origin_of(reversed(nodes)))
        return _emit(r, x, compose(reversed(maps)), channels)


def _channels(value: Value) -> int:
    shape = value.shape
    if shape is None or len(shape) != 4 or not isinstance(shape[1], int):
        raise NoMatch(f"%{value.name} is not of rank 4 with a known number of channels")
    if value.dtype not in (DType.F32, DType.F16, DType.F64):
        raise NoMatch(f"BatchNormalization of {value.dtype} is not widely implemented")
    return shape[1]


def _channels_or_none(value: Value) -> int | None:
    try:
        return _channels(value)
    except NoMatch:
        return None


def _step(node: Node, channels: int) -> tuple[Value, Affine]:
    """Operand and map of one node of a chain. Raises :class:`NoMatch`."""
    if node.domain:
        raise NoMatch(f"{node.op} is of domain {node.domain}")
    if node.op == "BatchNormalization":
        affine = batchnorm_affine(node)
        x = node.input(0)
    elif node.op in _MAPS:
        variable = [(i, v) for i, v in enumerate(node.inputs) if v is not None and v.data is None]
        if len(variable) != 1:
            raise NoMatch(f"{node.op} has {len(variable)} operands that are not constant, expected 1")
        i, x = variable[0]
        affine = elementwise_affine(node, i, -3, channels, 4)
    else:
        raise NoMatch(f"{node.op} is no scale or shift")
    if x is None or _channels_or_none(x) != channels:
        raise NoMatch("the operand has another number of channels than the result")
    return x, affine


def _is_step(node: Node, channels: int) -> bool:
    try:
        _step(node, channels)
    except NoMatch:
        return False
    return True


def _require_gain(nodes: list[Node], channels: int, x: Value) -> None:
    behind, in_front = is_blocked_producer(x), any(is_blocked_user(u) for u in nodes[0].output.users)
    if len(nodes) > 1:
        # One channel far from any convolution is a mask or an image being scaled: others look for those.
        if not (behind or in_front) and channels == 1:
            raise NoMatch("one channel, far from any convolution")
        return
    if nodes[0].op == "BatchNormalization":
        raise NoMatch("it is a BatchNormalization already")
    if not (behind and in_front):
        raise NoMatch(f"a single {nodes[0].op} that does not stand between convolutions")


def _emit(r: Rewriter, x: Value, affine: Affine, channels: int) -> Value:
    dtype = x.dtype
    assert dtype is not None
    affine.checked()
    scale, shift = (rounded(np.broadcast_to(v, (channels,)), dtype) for v in (affine.gain, affine.shift))
    # The smallest epsilon that every runtime takes (as the attribute holds it, in float32); together with it the
    # variance gives one.
    variance = np.full(channels, 1.0 - float(np.float32(_EPSILON)))
    mean = r.const(np.zeros(channels), dtype)
    return r.BatchNormalization(x, r.const(scale), r.const(shift), mean, r.const(variance, dtype))
