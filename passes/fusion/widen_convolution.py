"""Widen a convolution with few output channels: neighbouring outputs become channels (polyphase form).

With stride s and P neighbouring outputs at a time, along one spatial axis,

    y[c, P i + p] = sum_k w[c, k] x[s (P i + p) + k] = sum_j v[(p, c), j] x[(s P) i + j],   v[(p, c), j] = w[c, j - s p]

is a convolution with P times as many channels, stride s P, and a kernel of k + s (P - 1) elements, most of which the
phases share; a DepthToSpace, or a Transpose, puts the phases back in place.

**Why** convolution kernels compute whole vectors of output channels: with 1 of 16 lanes in use, a 1-channel 256-tap
filter takes sixteen times what it must, and im2col copies as much.
**Needs** Conv of two spatial axes, one group, no dilation, constant weight; static spatial extents; fewer channels than
a vector has lanes; the estimated saving must pay for the Transpose. An activation behind stays with the convolution.
**Leaves** kernels that are short for their stride (little is shared), groups, unknown extents, small tensors.
**Numbers** reassociates (products with zero are added).
**Source** R. Crochiere, L. Rabiner, Multirate Digital Signal Processing, 1983 (polyphase decomposition).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np

from ...ir.constants import ArrayConstant
from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import MODIFIED, NodeRule, NoMatch, Rewriter, Rule
from ..rewrite.rewriter import origin_of
from ..rewrite.rule import Replacement
from ..shared.activations import activation_behind, emit_activation
from ..shared.blocked import lanes_of
from ..shared.windows import steps, window_pads

_MOVE = 60
"""What moving one output element costs, in multiplications of one lane (measured: 1.0 to 1.5 ns against 0.02 ns)."""
_LEAST = 1 << 20


@dataclass
class WidenConvolution(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES
    spreads: ClassVar[bool] = True
    lanes: int = 0
    """Lanes of a vector; 0 asks the target."""
    least: int = _LEAST
    """Multiplications that must be saved: 2**20 take about 20 us, a Transpose and two Reshapes 10."""

    def rules(self) -> Iterable[NodeRule | Rule]:
        yield Polyphase(self.lanes, self.least)


@dataclass(frozen=True)
class _Shape:
    channels: int
    inputs: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    out: tuple[int, int]

    def cost(self, phases: tuple[int, int], lanes: int) -> int:
        """Multiplications, counting unused lanes, and the moving of the result."""
        count = phases[0] * phases[1]
        total = -(-self.channels * count // lanes) * lanes * self.inputs
        for k, s, o, p in zip(self.kernel, self.strides, self.out, phases, strict=True):
            total *= (k + s * (p - 1)) * -(-o // p)
        return total + (_MOVE * self.channels * self.out[0] * self.out[1] if count > 1 else 0)

    def best(self, lanes: int, least: int) -> tuple[int, int]:
        """The cheapest number of phases along each axis. Raises :class:`NoMatch` where widening does not pay."""
        if self.channels >= lanes:
            raise NoMatch(f"{self.channels} channels fill a vector of {lanes} lanes")
        sizes = [p for p in (1, 2, 4, 8, 16, 32) if p * self.channels <= lanes]
        choices = [(a, b) for a, b in product(sizes, sizes) if a * b * self.channels <= lanes]
        fit = [c for c in choices if c[0] <= self.out[0] and c[1] <= self.out[1]] or [(1, 1)]
        chosen = min(fit, key=lambda c: (self.cost(c, lanes), c))
        now, then = self.cost((1, 1), lanes), self.cost(chosen, lanes)
        if now - then < least or then > 0.8 * now:
            raise NoMatch(f"widening would take {then} multiplications, now {now}")
        return chosen


class Polyphase(NodeRule):
    """A convolution that leaves lanes of a vector empty."""

    roots = ("Conv",)

    def __init__(self, lanes: int, least: int) -> None:
        self.lanes, self.least = lanes, least

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        weight, bias = _constants(node)
        shape = _shape(node, weight)
        phases = shape.best(self.lanes or lanes_of(r.ctx.target), self.least)
        if any(o % p for o, p in zip(shape.out, phases, strict=True)) and r.opset() < 10:
            raise NoMatch(f"cutting off the last outputs needs opset 10, the model imports {r.opset()}")
        pads = window_pads(node, 2)
        act = activation_behind(node.output)
        last = act or node
        r.begin(last, origin_of([node, last]))
        wide = _wide(r, node, weight, bias, shape, phases, pads)
        if act is not None:
            wide = emit_activation(r, act, wide)
        r.replace(last, _put_back(r, wide, shape, phases))
        return MODIFIED


def _constants(node: Node) -> tuple[ArrayConstant, ArrayConstant | None]:
    weight, bias = node.input(1), node.input(2)
    if weight is None or weight.data is None or (bias is not None and bias.data is None):
        raise NoMatch("the weight or the bias is not a constant")
    if weight.dtype is not DType.F32 or len(weight.data.shape) != 4:
        raise NoMatch(f"the weight is {weight.type}, expected f32 of rank 4")
    if node.attr("group", 1) != 1 or any(d != 1 for d in steps(node, "dilations", 2)):
        raise NoMatch("groups or dilations")
    return ArrayConstant(weight.numpy()), None if bias is None or bias.data is None else ArrayConstant(bias.numpy())


def _shape(node: Node, weight: ArrayConstant) -> _Shape:
    out = node.output.shape
    if out is None or len(out) != 4 or not (isinstance(out[2], int) and isinstance(out[3], int)):
        raise NoMatch("the spatial extents are not known numbers")
    m, c, kh, kw = weight.shape
    sh, sw = steps(node, "strides", 2)
    if out[1] != m or min(m, c, out[2], out[3]) < 1:
        raise NoMatch("an empty tensor")
    return _Shape(m, c, (kh, kw), (sh, sw), (out[2], out[3]))


def _wide(
    r: Rewriter,
    node: Node,
    weight: ArrayConstant,
    bias: ArrayConstant | None,
    shape: _Shape,
    phases: tuple[int, int],
    pads: tuple[int, ...],
) -> Value:
    """The convolution with channels ``(phase of axis 2, phase of axis 3, channel)``."""
    (kh, kw), (sh, sw), (ph, pw) = shape.kernel, shape.strides, phases
    wide = np.zeros((ph, pw, shape.channels, shape.inputs, kh + sh * (ph - 1), kw + sw * (pw - 1)), np.float32)
    for i, j in product(range(ph), range(pw)):
        wide[i, j, :, :, i * sh : i * sh + kh, j * sw : j * sw + kw] = weight.numpy()
    attrs: dict[str, Any] = {
        "kernel_shape": wide.shape[4:],
        "strides": (sh * ph, sw * pw),
        # The last group of phases may reach behind the end: what it computes there is cut off again.
        "pads": (pads[0], pads[1], pads[2] + sh * (ph - 1), pads[3] + sw * (pw - 1)),
    }
    names = [v.name for v in node.inputs[1:] if v is not None]
    operands = [r.const(wide.reshape(-1, *wide.shape[3:]), name=names[0])]
    if bias is not None:
        operands.append(r.const(np.tile(bias.numpy(), ph * pw), name=names[1]))
    return r.Conv(node.inputs[0], *operands, **attrs)


def _put_back(r: Rewriter, wide: Value, shape: _Shape, phases: tuple[int, int]) -> Value:
    (ph, pw), (oh, ow), m = phases, shape.out, shape.channels
    h, w = -(-oh // ph), -(-ow // pw)
    if ph == pw:
        y = r.DepthToSpace(wide, blocksize=ph)
    elif ph == 1:
        y = (
            _moved(r, wide, (0, pw, m * h * w), (0, 2, 1), (0, m, h, w * pw))
            if m == 1
            else _moved(r, wide, (0, pw, m * h, w), (0, 2, 3, 1), (0, m, h, w * pw))
        )
    elif pw == 1:
        y = _moved(r, wide, (0, ph, m, h, w), (0, 2, 3, 1, 4), (0, m, h * ph, w))
    else:
        y = (
            _moved(r, wide, (0, ph, pw, m * h, w), (0, 3, 1, 4, 2), (0, m, h * ph, w * pw))
            if m == 1
            else _moved(r, wide, (0, ph, pw, m, h, w), (0, 3, 4, 1, 5, 2), (0, m, h * ph, w * pw))
        )
    if (h * ph, w * pw) == (oh, ow):
        return y
    return r.Slice(y, np.array([0, 0]), np.array([oh, ow]), np.array([2, 3]))


def _moved(r: Rewriter, x: Value, split: tuple[int, ...], perm: tuple[int, ...], join: tuple[int, ...]) -> Value:
    split_value, join_value = (np.array(s, np.int64) for s in (split, join))
    return r.Reshape(r.Transpose(r.Reshape(x, split_value), perm=perm), join_value)
