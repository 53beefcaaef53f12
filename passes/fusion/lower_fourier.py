"""Compute short Fourier transforms as the convolution, or the matrix product, that they are.

    STFT(x; step, w)[b, f, k] = sum_t w[t] x[b, step f + t] e^(-2 pi i k t / n)
                              = Conv(x; W, stride = step)
                                W[2k] = w cos(2 pi k t / n),  W[2k + 1] = -w sin(2 pi k t / n)
    DFT(x)[..., k]            = MatMul(x, W^T)         for the axis in front of the last

**Why** ONNX Runtime's transform of 400 points takes 40 microseconds, the product 5, and its angles are rounded to
float32, so that its errors are 45 times as large: Whisper's features come in a tenth of the time. Powers of two have a
fast path there, which wins from 512 points on. And other compilers know products, not transforms.
**Needs** a real float32 signal; a constant step, frame length, window and axis.
**Leaves** complex signals, inverse transforms, powers of two above ``fast_from``, a basis of more than ``max_bytes``.
**Numbers** reassociates; the basis is computed in float64 from angles reduced exactly, rounded once.
**Source** STFT-17, DFT-17 and DFT-20.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter

Basis: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


@dataclass
class LowerFourier(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES
    fast_from: int = 512
    """Powers of two from which on the runtime's fast transform is left."""
    max_bytes: int = 1 << 20
    """Largest basis."""

    def rules(self) -> Iterable[NodeRule]:
        yield OfFrames(self)
        yield OfRows(self)

    def basis(self, count: int, length: int, *, half: bool) -> Basis:
        """``[count, 2 bins]``: cosine and negative sine of each frequency in turn, zero behind ``length`` points.

        Angles are whole numbers modulo ``length`` before they are multiplied by pi: products of frequency and time lose
        nothing. Raises :class:`NoMatch` for transforms that are better left to the runtime.
        """
        bins = length // 2 + 1 if half else length
        if length >= self.fast_from and length & (length - 1) == 0:
            raise NoMatch(f"runtimes transform {length} points, a power of two, faster than a product does")
        if count * bins * 2 * 4 > self.max_bytes:
            raise NoMatch(f"the basis of {count} points takes {count * bins * 8:,} bytes, at most {self.max_bytes:,}")
        turns = np.outer(np.arange(count), np.arange(bins)) % length * (2 * math.pi / length)
        found = np.stack([np.cos(turns), -np.sin(turns)], axis=-1)
        found[length:] = 0
        return found.reshape(count, 2 * bins)


class OfFrames(NodeRule):
    """STFT."""

    roots = ("STFT",)

    def __init__(self, options: LowerFourier) -> None:
        self.options = options

    def apply(self, r: Rewriter, node: Node) -> Value:
        x, window = _real(node.input(0)), node.input(2)
        if x.rank not in (2, 3):
            raise NoMatch(f"the signal is {x.type}, expected rank 3")
        if window is not None and window.data is None:
            raise NoMatch(f"the window %{window.name} is not constant")
        step = _number(node.input(1), "frame_step")
        if node.input(3) is not None:
            length = _number(node.input(3), "frame_length")
        elif window is not None and window.data is not None:
            length = window.data.shape[0]
        else:
            raise NoMatch("neither a window nor a frame length")
        factors = window.numpy().astype(np.float64) if window is not None else np.ones(length)
        if step < 1 or length < 1 or factors.shape != (length,):
            raise NoMatch(f"a step of {step}, frames of {length}, a window of {list(factors.shape)}")
        basis = self.options.basis(length, length, half=bool(node.attr("onesided", 1)))
        weight = np.ascontiguousarray((basis * factors[:, None]).T[:, None, :])
        if x.rank == 3:
            x = r.Squeeze(x, r.const(np.array([2])))
        y = r.Conv(r.Unsqueeze(x, r.const(np.array([1]))), r.const(weight, DType.F32), strides=(step,))
        return _pairs(r, r.Transpose(y, perm=(0, 2, 1)), weight.shape[0], 3)


class OfRows(NodeRule):
    """DFT along the axis in front of the last."""

    roots = ("DFT",)

    def __init__(self, options: LowerFourier) -> None:
        self.options = options

    def apply(self, r: Rewriter, node: Node) -> Value:
        x = _real(node.input(0))
        rank, shape = x.rank, x.shape
        if node.attr("inverse", 0):
            raise NoMatch("an inverse transform")
        if rank is None or shape is None or rank < 3 or not isinstance(shape[-2], int):
            raise NoMatch(f"%{x.name} is {x.type}, expected a known extent in front of a last one of 1")
        axis = _number(node.input(2), "axis") if node.input(2) is not None else _default_axis(r, node)
        if axis % rank != rank - 2:
            raise NoMatch(f"axis {axis} is not the one in front of the last")
        length = _number(node.input(1), "dft_length") if node.input(1) is not None else shape[-2]
        if length < 1 or shape[-2] < 1:
            raise NoMatch(f"a transform of {length} points of {shape[-2]}")
        basis = self.options.basis(shape[-2], length, half=bool(node.attr("onesided", 0)))
        rows = r.Squeeze(x, r.const(np.array([rank - 1])))
        return _pairs(r, r.MatMul(rows, r.const(basis, DType.F32)), basis.shape[1], rank - 1)


def _pairs(r: Rewriter, y: Value, channels: int, rank: int) -> Value:
    """The last axis of ``channels`` as pairs of real and imaginary parts."""
    return r.Reshape(y, r.const(np.array([*([0] * (rank - 1)), channels // 2, 2])))


def _real(x: Value | None) -> Value:
    """A float32 signal with a last axis of 1, or of two axes: signals without it, which runtimes take as well."""
    shape = x.shape if x is not None else None
    if x is None or x.dtype is not DType.F32 or shape is None or (len(shape) != 2 and shape[-1:] != (1,)):
        raise NoMatch(f"the signal is {x.type if x is not None else None}, expected real float32")
    return x


def _default_axis(r: Rewriter, node: Node) -> int:
    """Axis 1 was the default while it was an attribute."""
    return int(node.attr("axis", 1)) if r.opset() < 20 else -2


def _number(value: Value | None, what: str) -> int:
    if value is None or value.data is None or value.data.count != 1:
        raise NoMatch(f"{what} is not constant")
    return int(value.numpy().reshape(-1)[0])
