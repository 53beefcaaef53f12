"""Fold a Pad with constants into the padding of the window operation behind it.

    Conv(pad_0(x), pads=p)        = Conv(x, pads=p+q)
    AveragePool(pad_0(x), pads=p) = AveragePool(x, pads=p+q, count_include_pad=1)     p = 0 or count_include_pad = 1
    MaxPool(pad_-inf(x), pads=p)  = MaxPool(x, pads=p+q)

A MaxPool of numbers that cannot be negative (Relu in front) takes a padding of zeros too: every window holds at least
one element of x, which is no smaller than the zeros.

**Why** the padded copy of the tensor is never made.
**Needs** mode ``constant`` with the right fill on spatial axes only; constant, non-negative pads; ``auto_pad`` NOTSET
or VALID, or static extents; all users of the Pad can take it, or else it would stay for the others.
**Leaves** ``ceil_mode``, MaxPool with indices, pads as large as a pooling window (runtimes refuse them), cropping
(negative pads), ConvTranspose.
**Numbers** reassociates (sums leave out products with zero).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..shared.ranges import is_nonnegative
from ..shared.windows import Padding, Pads, padding_of, steps, window, window_pads


@dataclass
class FoldPad(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule]:
        yield IntoWindow()


class IntoWindow(NodeRule):
    """A window operation of a Pad."""

    roots = ("Conv", "AveragePool", "MaxPool")

    def apply(self, r: Rewriter, node: Node) -> list[Value]:
        x = node.input(0)
        pad = x.producer if x is not None else None
        if pad is None or pad.op != "Pad" or pad.domain or pad.graph is not node.graph:
            raise NoMatch("no Pad in front")
        padding = padding_of(pad)
        if any(padding.pads) is False:
            raise NoMatch("Pad adds nothing: removing it is another pass's work")
        attrs = _taken(node, pad, padding)
        for user in pad.output.users:
            if user is not node:
                _check_other_user(user, pad, padding)
        results = r.op(node.op, pad.inputs[0], *node.inputs[1:], _outputs=len(node.outputs), **attrs)
        return results if isinstance(results, list) else [results]  # pyright: ignore[reportUnknownVariableType]


def _check_other_user(user: Node, pad: Node, padding: Padding) -> None:
    """Raises :class:`NoMatch` unless ``user`` takes the Pad too: otherwise it would have to stay."""
    sole = user.inputs.count(pad.output) == 1 and user.inputs[0] is pad.output
    if user.graph is not pad.graph or user.op not in IntoWindow.roots or not sole:
        raise NoMatch(f"%{pad.output.name} has another user: {user.op}")
    try:
        _taken(user, pad, padding)
    except NoMatch as declined:
        raise NoMatch(f"%{pad.output.name} has another user that cannot take the padding: {declined.reason}") from None


def _taken(node: Node, pad: Node, padding: Padding) -> dict[str, Any]:
    """Attributes of the window operation with the padding in them. Raises :class:`NoMatch`."""
    extra = padding.spatial()
    own = window_pads(node, len(extra) // 2)
    total = tuple(a + b for a, b in zip(own, extra, strict=True))
    attrs: dict[str, Any] = {k: v for k, v in node.attrs.items() if k != "auto_pad"} | {"pads": total}
    if node.op == "Conv":
        if padding.fill != 0:
            raise NoMatch(f"Pad fills with {padding.fill}, Conv pads with 0")
        return attrs
    if node.attr("ceil_mode", 0):
        raise NoMatch("ceil_mode is 1: the last window depends on what is padding")
    _require_small(total, window(node))
    if node.op == "MaxPool":
        _check_max_pool(node, pad, padding)
        return attrs
    if padding.fill != 0:
        raise NoMatch(f"Pad fills with {padding.fill}, AveragePool pads with 0")
    if any(own) and not node.attr("count_include_pad", 0):
        raise NoMatch("AveragePool has a padding of its own that does not count")
    if node.version < 7:
        raise NoMatch(f"AveragePool of opset {node.version} cannot count padding")
    return attrs | {"count_include_pad": 1}


def _check_max_pool(node: Node, pad: Node, padding: Padding) -> None:
    if len(node.outputs) > 1 and node.outputs[1].uses:
        raise NoMatch("the indices of MaxPool are used, and they count the padding")
    if padding.fill == -math.inf:
        return
    if padding.fill != 0 or not is_nonnegative(pad.inputs[0]):
        raise NoMatch(f"Pad fills with {padding.fill}, MaxPool pads with -inf and its operand may be smaller")
    if any(d != 1 for d in steps(node, "dilations", padding.rank - 2)):
        raise NoMatch("a dilated window may lie in the padding as a whole")


def _require_small(pads: Pads, kernel: Pads) -> None:
    for i, p in enumerate(pads):
        if p >= kernel[i % len(kernel)]:
            raise NoMatch(f"padding {p} is not smaller than the window {kernel[i % len(kernel)]}")
