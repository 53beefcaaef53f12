"""Ways to compute a convolution under other orders of its axes, and what they take: a model of the runtime's kernels.

ONNX Runtime computes float convolutions of two spatial axes on x86-64 directly, in blocks of one vector of channels.
Along the *last* axis it takes six neighbouring results at a time, and those whose window reaches over the border one by
one. A narrow or strongly padded last axis is therefore slow, and one with the spatial axes exchanged may be faster:

    conv(x, w)  =  swap(conv(swap(x), swap(w)))

One of single pixels is also a product of matrices on channels that are stored last, which takes about as long and saves
the Transposes around it.

**Model** (fitted to 120 convolutions of real networks on a Zen 4 core; ratios of both ways are met within 10 %, rank
kept above that): a vector operation per filter block, kernel element, input channel and result; single results wait for
their own sums (4 cycles), six do not; a call for each row of results and of the kernel.

**Source** onnxruntime 1.31, mlas/lib/snchwc.cpp and SconvKernelAvx512F (6 results by up to 4 filter blocks).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ....ir.builder import Builder
from ....ir.dtypes import DType
from ....ir.graph import Model, Node, Value
from ...rewrite.rewriter import Rewriter
from .costs import Sizes, apart_ns
from .moves import Move, Operands, emitted
from .moves_math import windows
from .orders import Order, permuted

_TOGETHER = 6
"""Neighbouring results that a kernel computes at once."""
_LATENCY = 4
"""Cycles until a sum can be added to again."""
_RATE = 3.4
"""Vector operations in a nanosecond."""
_ROW, _KERNEL_ROW = 4.0, 0.2
"""Nanoseconds for a row of results, and for each kernel row of it."""
_DEPTHWISE_ROW, _DEPTHWISE_ALONE = 20.0, 1.5
"""The same of a depthwise kernel, and what a single result of it costs beside one of six."""
_MARGIN, _LEAST = 1.1, 25_000.0
"""A way that is not the written one must be faster than the model says by this factor and by these nanoseconds: the
model's own error, which is larger for small convolutions."""
_PROMISING, _LEAST_MEASURED = 0.95, 10_000.0
"""Where kernels can be timed: by how much one must be faster for the model to be tried, and then by the clock."""
_SWAPPED: Order = (0, 1, 3, 2)
_LAST: Order = (0, 2, 3, 1)


_WEIGHT = 0.01

Race = Callable[[Sequence[Model]], "list[float] | None"]
"""As ``Context.race``."""


@dataclass(frozen=True)
class Window:
    """One convolution, seen along one spatial axis."""

    results: int
    kernel: int
    stride: int
    dilation: int
    pads: tuple[int, int]
    extent: int

    @property
    def single(self) -> int:
        """Results whose window reaches over a border."""
        left = min(self.results, -(-self.pads[0] // self.stride))
        reach = (self.kernel - 1) * self.dilation + 1
        inside = (self.extent + self.pads[0] - reach) // self.stride + 1 if self.extent + self.pads[0] >= reach else 0
        return min(self.results, left + max(0, self.results - max(inside, left)))

    @property
    def rows(self) -> float:
        """Share of kernel positions that lie inside."""
        inside = 0
        for k in range(self.kernel):
            at = self.pads[0] - k * self.dilation  # results from at / stride on read an element there
            first = max(0, -(-at // self.stride))
            last = min(self.results - 1, (self.extent - 1 + at) // self.stride)
            inside += max(0, last - first + 1)
        return inside / max(self.results * self.kernel, 1)


@dataclass(frozen=True)
class Shape:
    """A convolution's extents; both spatial axes."""

    batch: int
    channels: int
    """Of the input, in one group."""
    filters: int
    group: int
    high: Window
    wide: Window

    @property
    def swapped(self) -> Shape:
        return Shape(self.batch, self.channels, self.filters, self.group, self.wide, self.high)


def convolution_ns(c: Shape, lanes: int) -> float:
    """Time of a convolution in blocks of ``lanes`` channels."""
    depthwise = c.group > 1 and c.channels == 1
    blocks = -(-c.filters // lanes)
    depth = 1 if depthwise else c.channels
    at_once = 1 if depthwise else min(4, blocks)
    alone = _DEPTHWISE_ALONE if depthwise else max(1.0, _LATENCY / at_once)
    plain_results = c.wide.results - c.wide.single
    full, rest = divmod(plain_results, _TOGETHER)
    pixels = full * _TOGETHER + (max(rest, alone) if rest else 0) + c.wide.single * alone
    work = c.high.results * c.high.rows * c.high.kernel * c.wide.kernel * depth * blocks * pixels / _RATE
    call = _DEPTHWISE_ROW if depthwise else _ROW + _KERNEL_ROW * c.high.kernel
    calls = c.high.results * -(-depth // lanes) * -(-blocks // at_once) * call
    return c.batch * (work + calls)


def shape_of(node: Node, sizes: Sizes) -> Shape | None:
    """Extents of a convolution of two spatial axes with constant weights, where they are known; else ``None``."""
    x, w = node.input(0), node.input(1)
    bias = node.input(2)
    if node.op != "Conv" or node.domain or x is None or w is None or w.data is None or w.dtype is not DType.F32:
        return None
    if x.rank != 4 or len(w.data.shape) != 4 or node.output.rank != 4 or node.attr("auto_pad", "NOTSET") != "NOTSET":
        return None
    if bias is not None and bias.data is None:
        return None
    if any(sizes.told(d) is None for v in (x, node.output) for d in (v.shape or ())[2:]):
        return None
    extents, results = sizes.extents(x), sizes.extents(node.output)
    filters, channels, *kernel = w.data.shape
    pads, strides, dilations = (_pair(node, "pads", 0, 4), _pair(node, "strides", 1, 2), _pair(node, "dilations", 1, 2))
    axes = [
        Window(results[2 + i], kernel[i], strides[i], dilations[i], (pads[i], pads[2 + i]), extents[2 + i])
        for i in (0, 1)
    ]
    return Shape(extents[0], channels, filters, int(node.attr("group", 1)), axes[0], axes[1])


def _pair(node: Node, name: str, default: int, count: int) -> tuple[int, ...]:
    found = node.attrs.get(name)
    return tuple(int(n) for n in found) if isinstance(found, tuple) else (default,) * count  # type: ignore[arg-type]


def alone(node: Node, shape: Shape, *, turned: bool = False) -> Model:
    """A model of nothing but the convolution, for the clock; its spatial axes exchanged where ``turned``."""
    weight = node.inputs[1]
    assert weight is not None
    order = _SWAPPED if turned else (0, 1, 2, 3)
    extents = (shape.batch, shape.channels * shape.group, shape.high.extent, shape.wide.extent)
    b = Builder(opset=node.version)
    x = b.input("x", DType.F32, permuted(extents, order))
    w = b.const(np.full(permuted(weight.numpy().shape, order), _WEIGHT, np.float32))
    bias = [b.const(np.full(shape.filters, _WEIGHT, np.float32))] if node.input(2) is not None else []
    attributes = {**node.attrs, **(windows(node, _SWAPPED) if turned else {})}
    b.output(b.Conv(x, w, *bias, **attributes), "y")
    return b.model()


def swapped(node: Node) -> Move:
    """A convolution whose spatial axes are stored in the other order; weights are re-laid now."""
    changed = windows(node, _SWAPPED)

    def build(r: Rewriter, operands: Operands) -> list[Value]:
        weight = node.inputs[1]
        assert weight is not None
        turned = np.ascontiguousarray(weight.numpy().transpose(_SWAPPED))
        return emitted(r, node, operands[0], r.const(turned, name=weight.name), *operands[2:], **changed)

    return Move((_SWAPPED, *(None for _ in node.inputs[1:])), (_SWAPPED,), build)


def channels_last(node: Node) -> Move | None:
    """A convolution of single pixels as a product of matrices, on channels that are stored last."""
    weight = node.inputs[1]
    if weight is None or weight.data is None or weight.data.shape[2:] != (1, 1) or node.attr("group", 1) != 1:
        return None
    if set(_pair(node, "pads", 0, 4)) != {0} or set(_pair(node, "strides", 1, 2)) != {1}:
        return None

    def build(r: Rewriter, operands: Operands) -> list[Value]:
        matrix = np.ascontiguousarray(weight.numpy()[:, :, 0, 0].T)
        product = r.MatMul(operands[0], r.const(matrix, name=weight.name))
        return [product if node.input(2) is None else r.Add(product, operands[2])]

    return Move((_LAST, *(None for _ in node.inputs[1:])), (_LAST,), build)


def ways(node: Node, sizes: Sizes, lanes: int, race: Race | None = None) -> list[tuple[float, Move]]:
    """Other ways to compute a convolution, with what they take beside the written one (nanoseconds).

    With a ``race`` the model only proposes: what it calls faster is timed.
    """
    shape = shape_of(node, sizes)
    if shape is None:
        return []
    time, other = convolution_ns(shape, lanes), convolution_ns(shape.swapped, lanes)
    gain, least = time - _MARGIN * other, _LEAST
    if race is not None and other < _PROMISING * time and time > _LEAST:
        times = race([alone(node, shape), alone(node, shape, turned=True)])
        gain, least = (times[0] - times[1], _LEAST_MEASURED) if times is not None else (0.0, 0.0)
    found = [(-gain if gain > least else max(0.0, -gain), swapped(node))]
    last = channels_last(node)
    if last is not None:
        found.append(((_MARGIN - 1) * time + apart_ns(node, sizes), last))
    return found
