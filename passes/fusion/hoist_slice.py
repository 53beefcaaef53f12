"""Hoist a Slice that drops the first outputs of a convolution or pooling: they are not computed.

    Conv(x; pads = p)[a:] = Conv(x; pads = p - a s)                      a s <= p
    Conv(x; pads = p)[a:] = Conv(x[a s - p:]; pads = 0)                  a s > p

along each spatial axis, s the stride.

**Why** outputs that nobody sees are not computed; and a Slice between convolutions leaves their blocked layout.
**Needs** constant starts that are not negative, ends behind the last output, steps of one; no other user of the result.
**Leaves** cuts at the end (whether the last window fits depends on the extent), batches and channels, ``auto_pad``.
**Numbers** exact, except that a runtime may choose another kernel: reassociates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter, Rule
from ..rewrite.rewriter import origin_of
from ..shared.operands import int_operand
from ..shared.windows import steps, window_pads

_END = (1 << 31) - 1


@dataclass
class HoistSlice(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule | Rule]:
        yield FirstOutputs()


class FirstOutputs(NodeRule):
    """A Slice of the result of a Conv."""

    roots = ("Slice",)

    def apply(self, r: Rewriter, node: Node) -> Value:
        y = node.inputs[0]
        conv = y.producer if y is not None else None
        if y is None or conv is None or conv.op != "Conv" or conv.domain or conv.graph is not node.graph:
            raise NoMatch("the operand is not computed by a convolution of this graph")
        if len(y.uses) != 1 or y.rank is None:
            raise NoMatch(f"%{y.name} has another user, or an unknown rank")
        mode = conv.attr("auto_pad", "NOTSET")
        if mode not in ("NOTSET", b"NOTSET"):
            raise NoMatch(f"auto_pad is {mode!r}")
        spatial = y.rank - 2
        cut = _cut(node, y.rank)
        pads = list(window_pads(conv, spatial))
        skip: dict[int, int] = {}
        for axis, stride in enumerate(steps(conv, "strides", spatial)):
            rest = cut.get(axis, 0) * stride - pads[axis]
            pads[axis] = max(-rest, 0) if axis in cut else pads[axis]
            if axis in cut and rest > 0:
                skip[axis + 2] = rest
            extent = y.shape[axis + 2] if y.shape is not None else None
            if isinstance(extent, int) and cut.get(axis, 0) >= extent:
                raise NoMatch(f"nothing is left of {extent} outputs, and no convolution gives nothing")
        r.begin(node, origin_of([conv, node]))
        x = conv.inputs[0]
        if skip:
            starts, axes = np.array(list(skip.values())), np.array(list(skip))
            x = r.Slice(x, starts, np.full(len(skip), np.iinfo(np.int64).max), axes)
        return r.Conv(x, *conv.inputs[1:], **(dict(conv.attrs) | {"pads": tuple(pads)}))


def _cut(node: Node, rank: int) -> dict[int, int]:
    """Outputs dropped at the begin of each spatial axis. Raises :class:`NoMatch`."""
    if node.version < 10:
        raise NoMatch(f"Slice of opset {node.version}")
    starts, ends, axes = (int_operand(node, i) for i in (1, 2, 3))
    strides = int_operand(node, 4) if node.input(4) is not None else [1]
    if starts is None or ends is None or axes is None or strides is None or set(strides) != {1}:
        raise NoMatch("Slice is not constant, or its step is not 1")
    found: dict[int, int] = {}
    for start, end, axis in zip(starts, ends, axes, strict=True):
        at = axis % rank - 2
        if at < 0:
            raise NoMatch("Slice cuts the batch or the channels")
        if start < 0 or end < _END:
            raise NoMatch(f"Slice takes {start}:{end}, expected {max(start, 0)} to the end")
        found[at] = start
    return found
