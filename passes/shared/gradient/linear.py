"""Derivatives of products, convolutions and what is linear over windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....ir.graph import Node, Value
from ...rewrite.rewriter import Rewriter
from ...rewrite.rule import NoMatch
from .rule import Parts, Rule, given, like_operand, operand, shape_of


def _matmul(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
    a, b, g = operand(node, 0), operand(node, 1), given(parts)
    if min(a.rank or 0, b.rank or 0) < 2:
        raise NoMatch("multiplies vectors")
    return [
        _batched(r, r.MatMul(g, _turned(r, b)), node.output, a) if wanted[0] else None,
        _weighed(r, node, a, b, g) if wanted[1] else None,
    ]


def _weighed(r: Rewriter, node: Node, a: Value, b: Value, g: Value) -> Any:
    """The gradient of the second factor."""
    return _batched(r, r.MatMul(_turned(r, a), g), node.output, b)


def _turned(r: Rewriter, x: Value) -> Any:
    """The last two axes exchanged; of a weight by the runtime when it loads, so that none is read here."""
    assert x.rank is not None
    return r.Transpose(x, perm=(*range(x.rank - 2), x.rank - 1, x.rank - 2))


def _batched(r: Rewriter, g: Value, result: Value, x: Value) -> Value:
    """Sums a gradient over the leading axes along which ``x`` was broadcast."""
    if result.shape is None or x.shape is None or len(result.shape) != len(x.shape):
        if x.shape is not None and result.shape is not None and len(x.shape) == len(result.shape) == 2:
            return g
        raise NoMatch("has factors of different ranks")
    for a, b in zip(result.shape[:-2], x.shape[:-2], strict=True):
        if a != b:
            raise NoMatch("may broadcast a factor")
    return g


def _gemm(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
    a, b, g = operand(node, 0), operand(node, 1), given(parts)
    alpha, beta = float(node.attr("alpha", 1.0)), float(node.attr("beta", 1.0))
    turned_a, turned_b = int(node.attr("transA", 0)), int(node.attr("transB", 0))
    found: Parts = [None, None]
    if wanted[0] and turned_a:
        found[0] = r.Gemm(b, g, transA=turned_b, transB=1, alpha=alpha)
    elif wanted[0]:
        found[0] = r.Gemm(g, b, transB=1 - turned_b, alpha=alpha)
    if wanted[1] and turned_b:
        found[1] = r.Gemm(g, a, transA=1, transB=turned_a, alpha=alpha)
    elif wanted[1]:
        found[1] = r.Gemm(a, g, transA=1 - turned_a, alpha=alpha)
    if len(node.inputs) > 2:
        c = node.input(2)
        part = like_operand(r, g, node.output, c) if c is not None and wanted[2] else None
        found.append(r.Mul(part, beta) if part is not None and beta != 1 else part)
    return found


def _conv(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
    """The transposed convolution, cut to the extents of the operand."""
    x, w, g = operand(node, 0), operand(node, 1), given(parts)
    if any(wanted[1:]):
        raise NoMatch("has a weight or a bias that is no constant")
    return [_windows_back(r, node, x, w, g), *[None] * (len(node.inputs) - 1)]


def _windows_back(r: Rewriter, node: Node, x: Value, w: Value, g: Value) -> Any:
    if x.rank is None or x.rank < 3:
        raise NoMatch("has an operand of unknown rank")
    count = x.rank - 2
    strides = tuple(node.attr("strides") or (1,) * count)
    dilations = tuple(node.attr("dilations") or (1,) * count)
    pads = tuple(node.attr("pads") or (0,) * 2 * count)
    if node.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise NoMatch(f"has auto_pad {node.attr('auto_pad')}")
    group = int(node.attr("group", 1)) if node.op == "Conv" else _channels(x)
    wide = r.ConvTranspose(g, w, strides=strides, dilations=dilations, group=group)
    # What the last stride did not reach is zero; then the padding is cut off.
    wide = r.Pad(wide, np.array([0] * (x.rank + 2) + [s - 1 for s in strides], np.int64))
    axes = np.arange(2, x.rank, dtype=np.int64)
    begin = r.const(np.array(pads[:count], np.int64))
    extents = r.Slice(shape_of(r, x), np.array([2], np.int64), np.array([x.rank], np.int64))
    padded = r.Pad(wide, np.array([0] * (x.rank + 2) + [int(p) for p in pads[count:]], np.int64))
    return r.Slice(padded, begin, r.Add(begin, extents), axes)


def _channels(x: Value) -> int:
    channels = x.shape[1] if x.shape is not None else None
    if not isinstance(channels, int):
        raise NoMatch("has a number of channels that is not known")
    return channels


def _conv_transpose(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
    if any(wanted[1:]) or node.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or node.attr("output_shape"):
        raise NoMatch("has a weight or padding that is not known")
    names = ("strides", "dilations", "pads", "group")
    attrs = {name: node.attrs[name] for name in names if name in node.attrs}
    narrow = r.Conv(given(parts), operand(node, 1), **attrs)
    return [narrow, *[None] * (len(node.inputs) - 1)]


def _average(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
    """A convolution of every channel with equal weights."""
    x = operand(node, 0)
    kernel = tuple(int(k) for k in node.attr("kernel_shape"))
    if any(node.attr("pads") or ()) or node.attr("ceil_mode", 0) or x.dtype is None:
        raise NoMatch("pools over a border")
    weight = np.full((_channels(x), 1, *kernel), 1 / np.prod(kernel), x.dtype.numpy)
    return [_windows_back(r, node, x, r.const(weight), given(parts))]


def _batchnorm(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
    x = operand(node, 0)
    scale, variance = operand(node, 1), operand(node, 4)
    if any(wanted[1:]) or node.attr("training_mode", 0) or scale.data is None or variance.data is None:
        raise NoMatch("has statistics that are no constants")
    if x.rank is None or x.dtype is None:
        raise NoMatch("has an operand of unknown rank")
    gain = scale.data.numpy() / np.sqrt(variance.data.numpy() + float(node.attr("epsilon", 1e-5)))
    gain = gain.astype(x.dtype.numpy).reshape(-1, *(1,) * (x.rank - 2))
    return [r.Mul(given(parts), r.const(gain)), None, None, None, None]


LINEAR: dict[str, Rule] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "AveragePool": _average,
    "BatchNormalization": _batchnorm,
}
