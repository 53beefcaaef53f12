"""merge-deconvolutions: transposed convolutions that only enlarge become convolutions, and one move of their results.

    convtranspose(f(convtranspose(x, v)), w)  =  depthtospace(conv(f(conv(x, v')), w'), b)

Where kernel and stride are equal, windows do not overlap: each result depends on one element of ``x`` and its place in
the window. So all places can be channels, at the resolution of ``x``, until the end: ``v'`` holds the kernels ``v`` of
every place, ``w'`` is block diagonal, and DepthToSpace puts channels ``(bh, bw, c)`` where they belong, once.

**Why**    ONNX Runtime computes transposed convolutions by a product and a scattered sum, outside its blocked layout,
           and what stands between at the higher resolution. The head of a DBNet detector takes 0.45 of its time.
**Needs**  constant weights, equal kernel, stride and extent of both axes, no padding; functions of single elements in
           between, no other user; ONNX Runtime on x86-64.
**Leaves** one by itself: DepthToSpace of many channels takes longer than the sum. Results of more than two channels,
           and ``w'`` with more to multiply than ``v'`` (it has zeros beside its blocks).
**Numbers** reassociates.
**Source** W. Shi et al., Is the deconvolution layer the same as a convolutional layer?, 2016 (arXiv:1609.07009).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.graph import Node, Value
from ...ir.ops import UNARY
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..rewrite.rewriter import origin_of
from ..shared.emit import again
from ..shared.operands import producer_of

MOST_CHANNELS = 2
"""Of the result: what DepthToSpace takes grows with them."""
_FUNCTIONS = tuple(op for _, op in UNARY)
_LONGEST = 4

Array = np.ndarray[Any, Any]


@dataclass
class MergeDeconvolutions(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule]:
        return [DeconvolutionChain()]


class DeconvolutionChain(NodeRule):
    """Two of them with functions of single elements in between."""

    roots = ("ConvTranspose",)

    def promising(self, node: Node) -> bool:
        return producer_of(node, 0, "ConvTranspose", *_FUNCTIONS) is not None

    def apply(self, r: Rewriter, node: Node) -> Value:
        target = r.ctx.target
        if target is None or target.runtime != "ort" or target.arch != "x86_64":
            raise NoMatch("measured for ONNX Runtime on x86-64 only")
        first, between = _chain(node)
        v, w = _weights(first), _weights(node)
        x = first.inputs[0]
        if x is None:
            raise NoMatch("no operand")
        inner, outer = _merged(v, w)
        if w.shape[1] > MOST_CHANNELS:
            raise NoMatch(f"{w.shape[1]} channels for DepthToSpace")
        if outer.size > inner.size:
            raise NoMatch(f"{outer.size} weights with zeros beside {inner.size}")
        r.begin(node, origin_of([first, *between, node]))
        size = v.shape[2] * w.shape[2]
        y = r.Conv(x, inner, _bias(first, v.shape[2] ** 2), kernel_shape=(1, 1))
        for function in between:
            y = again(r, function, y, *function.inputs[1:])
        y = r.Conv(y, outer, _bias(node, size**2), kernel_shape=(1, 1))
        return r.DepthToSpace(y, blocksize=size)


def _chain(node: Node) -> tuple[Node, list[Node]]:
    """The transposed convolution in front and the functions in between, in order."""
    between: list[Node] = []
    inner = producer_of(node, 0, "ConvTranspose", *_FUNCTIONS)
    while inner is not None and len(between) <= _LONGEST:
        if inner.output.sole_user is not (between[0] if between else node) or inner.graph is not node.graph:
            raise NoMatch(f"%{inner.output.name} has another user")
        if inner.op == "ConvTranspose":
            return inner, between
        if any(v is not None and v.rank != 0 for v in inner.inputs[1:]):
            raise NoMatch(f"{inner.op} has parameters that are no scalars")
        between.insert(0, inner)
        inner = producer_of(inner, 0, "ConvTranspose", *_FUNCTIONS)
    raise NoMatch("no transposed convolution in front")


def _weights(node: Node) -> Array:
    """[in, out, b, b] of one whose windows neither overlap nor leave gaps."""
    weight, bias = node.inputs[1], node.input(2)
    if weight is None or weight.data is None or (bias is not None and bias.data is None):
        raise NoMatch("weights are not constant")
    shape = weight.data.shape
    if len(shape) != 4 or shape[2] != shape[3] or node.attr("group", 1) != 1:
        raise NoMatch(f"weights of shape {list(shape)} in {node.attr('group', 1)} groups")
    wanted = {"strides": shape[2:], "pads": (0,) * 4, "dilations": (1, 1), "output_padding": (0, 0)}
    plain = {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1), "output_padding": (0, 0)}
    if "output_shape" in node.attrs or node.attr("auto_pad", "NOTSET") != "NOTSET":
        raise NoMatch("the extents are given in another way")
    for name, value in wanted.items():
        if tuple(node.attrs.get(name, plain[name])) != value:  # type: ignore[arg-type]
            raise NoMatch(f"{name} is {node.attrs.get(name, plain[name])}, want {value}")
    return weight.numpy()


def _merged(v: Array, w: Array) -> tuple[Array, Array]:
    """Weights of both convolutions: channels of the first are ``(h1, w1, c)``, of the second ``(h1 h2, w1 w2, c)``."""
    inner = v.transpose(2, 3, 1, 0).reshape(-1, v.shape[0], 1, 1)
    _, middle, b, _ = v.shape
    _, out, s, _ = w.shape
    outer = np.zeros((b, s, b, s, out, b, b, middle), w.dtype)
    for i in range(b):
        for j in range(b):
            outer[i, :, j, :, :, i, j, :] = w.transpose(2, 3, 1, 0)
    return np.ascontiguousarray(inner), outer.reshape(-1, b * b * middle, 1, 1)


def _bias(node: Node, times: int) -> Array | None:
    bias = node.input(2)
    return None if bias is None else np.tile(bias.numpy(), times)
