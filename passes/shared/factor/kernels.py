"""Convolution weights of low rank: what is offered, and writing it into the graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....ir.constants import ArrayConstant
from ....ir.graph import Node, Value
from ...rewrite.rewriter import Rewriter
from ...rewrite.rule import NoMatch
from ..affine import rounded
from ..emit import split
from ..linear import linear_of
from .compact import Compact, compact

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Kernel:
    """One Conv or ConvTranspose with a constant weight. Compares by identity."""

    node: Node
    x: Value
    weight: Value
    bias: Value | None
    groups: int
    channels: int
    """Input channels of one group."""
    outputs: int
    """Of one group."""
    spatial: tuple[int, ...]
    """Extents of the kernel."""
    given: Array | None = None
    """[groups, channels, positions, outputs]: what is factorized instead of the weight."""

    @property
    def turned(self) -> bool:
        """Whether it is a ConvTranspose."""
        return self.node.op == "ConvTranspose"

    @property
    def positions(self) -> int:
        return math.prod(self.spatial)

    @property
    def parameters(self) -> int:
        return self.groups * self.channels * self.positions * self.outputs

    def weights(self) -> Array:
        """[groups, channels, positions, outputs], float64. Raises ``NoMatch`` for NaN and infinities."""
        if self.given is not None:
            return self.given
        assert self.weight.data is not None
        array = self.weight.data.numpy().astype(np.float64)
        if not np.isfinite(array).all():
            raise NoMatch("holds NaN or infinities")
        g, c, s, o = self.groups, self.channels, self.positions, self.outputs
        if self.turned:
            return array.reshape(g, c, o, s).transpose(0, 1, 3, 2)
        return array.reshape(g, o, c, s).transpose(0, 2, 3, 1)

    def bias_vector(self) -> Array:
        """[groups * outputs], float64; zeros where there is none."""
        if self.bias is None:
            return np.zeros(self.groups * self.outputs)
        assert self.bias.data is not None
        return self.bias.data.numpy().astype(np.float64)

    # -- emitting

    def pointwise(self, r: Rewriter, x: Value, factors: Array, suffix: str, bias: Array | None = None) -> Value:
        """A 1x1 convolution with ``factors`` [groups, channels, outputs]."""
        g, c, o = factors.shape
        shaped = factors.transpose(0, 2, 1).reshape(g * o, c, *[1] * len(self.spatial))
        return self.conv(r, x, shaped, suffix, bias, group=g)

    def core(self, r: Rewriter, x: Value, weights: Array, suffix: str, bias: Array | None) -> Value:
        """The operator itself with ``weights`` [groups, channels, positions, outputs] between fewer channels."""
        g, c, _, o = weights.shape
        attrs: dict[str, Any] = dict(self.node.attrs)
        if self.turned:
            shaped = weights.transpose(0, 1, 3, 2).reshape(g * c, o, *self.spatial)
            operands = [self.constant(r, shaped, suffix), *self._bias(r, bias)]
            made: Value = r.op("ConvTranspose", x, *operands, **attrs)
            return made
        shaped = weights.transpose(0, 3, 1, 2).reshape(g * o, c, *self.spatial)
        attrs.pop("group", None)
        return self.conv(r, x, shaped, suffix, bias, group=g, **attrs)

    def conv(self, r: Rewriter, x: Value, weight: Array, suffix: str, bias: Array | None, **attrs: Any) -> Value:
        """A convolution with ``weight`` as ONNX has it, and a bias."""
        group = attrs.pop("group", 1)
        if group != 1:
            attrs["group"] = group
        made: Value = r.op("Conv", x, self.constant(r, weight, suffix), *self._bias(r, bias), **attrs)
        return made

    def _bias(self, r: Rewriter, bias: Array | None) -> list[Value]:
        if bias is None:
            return []
        name = self.bias.name if self.bias is not None else f"{self.weight.name}_bias"
        return [r.const(self.rounded(bias), name=name)]

    def constant(self, r: Rewriter, array: Array, suffix: str) -> Value:
        """A new weight."""
        return r.const(self.rounded(array), name=f"{self.weight.name}/{suffix}")

    def rounded(self, array: Array) -> ArrayConstant:
        """In the weight's type. Raises ``NoMatch`` where numbers leave its range."""
        dtype = self.weight.dtype
        assert dtype is not None
        return rounded(array, dtype)


def kernel_of(node: Node) -> Kernel:
    """The view of a node. Raises ``NoMatch`` with the reason where it may not be factorized."""
    linear = linear_of(node)
    assert linear.weight.data is not None
    shape, groups = linear.weight.data.shape, linear.groups
    if node.op == "ConvTranspose":
        channels, outputs = shape[0] // groups, shape[1]
    else:
        channels, outputs = shape[1], shape[0] // groups
    if linear.bias is not None:
        linear.bias_vector()  # declines what is no constant
    if channels == 1 and groups > 1:
        raise NoMatch("it is depthwise: each output reads one channel")
    if groups == 1 and math.prod(shape[2:]) == 1 and node.op == "Conv":
        raise NoMatch("the kernel is 1x1: factorize-matmul takes it as a matrix")
    return Kernel(node, linear.x, linear.weight, linear.bias, groups, channels, outputs, tuple(shape[2:]))


@dataclass(frozen=True)
class Chain:
    """Tucker-2 of all groups: ``a`` [g, C, p] (``None``: all channels), ``core`` [g, p, S, q], ``b`` [g, q, O]."""

    a: Array | None
    core: Array
    b: Array | None


def emit_chain(r: Rewriter, kernel: Kernel, chain: Chain, bias: Array | None) -> Value:
    """The convolutions of a chain; the caller replaces the node."""
    x = kernel.x if chain.a is None else kernel.pointwise(r, kernel.x, chain.a, "in")
    y = kernel.core(r, x, chain.core, "core", bias if chain.b is None else None)
    return y if chain.b is None else kernel.pointwise(r, y, chain.b, "out", bias)


def compact_chain(kernel: Kernel, chain: Chain, second: Array | None, largest: float) -> tuple[Chain, list[Compact]]:
    """The chain of one group with both 1x1 convolutions in the compact form: the core, and the forms in and out."""
    forms: list[Compact] = []
    core = chain.core[0]
    if chain.a is not None:
        form = compact(chain.a[0], core.reshape(len(core), -1), "input", second, largest)
        forms.append(form)
        core = form.a.reshape(core.shape)
    if chain.b is not None:
        p, s, q = core.shape
        form = compact(core.reshape(p * s, q), chain.b[0], "output", None, largest)
        forms.append(form)
        core = form.a.reshape(p, s, q)
    return Chain(None, core[None], None), forms


def emit_compact_chain(r: Rewriter, kernel: Kernel, core: Array, forms: Sequence[Compact], bias: Array | None) -> Value:
    """What :func:`compact_chain` gave; the caller replaces the node."""
    x = kernel.x
    for form in forms:
        if form.side == "input":
            x = _summed(r, kernel, x, form)
    form = next((f for f in forms if f.side == "output"), None)
    if form is None:
        return kernel.core(r, x, core, "core", bias)
    own = None if bias is None else bias[form.kept]
    z = kernel.core(r, x, core, "core", own)
    other = None if bias is None or own is None else bias[form.rest] - own @ form.t
    rest = kernel.pointwise(r, z, form.t[None], "out", other)
    whole: Value = r.Concat(*([rest, z] if form.last else [z, rest]), axis=1)
    return whole if form.first or form.last else r.Gather(whole, form.order.astype(np.int64), axis=1)


def _summed(r: Rewriter, kernel: Kernel, x: Value, form: Compact) -> Value:
    """``x[kept] + x[rest] t`` along the channels."""
    if not (form.first or form.last):
        x = r.Gather(x, np.concatenate([form.kept, form.rest]).astype(np.int64), axis=1)
    sizes = [len(form.kept), len(form.rest)]
    if form.last:
        rest, kept = split(r, x, sizes[::-1], 1)
    else:
        kept, rest = split(r, x, sizes, 1)
    summed: Value = r.Add(kernel.pointwise(r, rest, form.t[None], "in"), kept)
    return summed


def emit_spatial(r: Rewriter, kernel: Kernel, first: Array, second: Array, bias: Array | None) -> Value:
    """``first`` [g, C * kh, r] as kh x 1, ``second`` [g, r, kw, O] as 1 x kw."""
    (kh, kw), g, c = kernel.spatial, kernel.groups, kernel.channels
    rank = first.shape[2]
    attrs = [{k: v for k, v in kernel.node.attrs.items() if k == "auto_pad"} for _ in range(2)]
    for name in ("strides", "dilations"):
        given: Any = kernel.node.attrs.get(name, (1, 1))
        if tuple(given) != (1, 1):
            attrs[0][name], attrs[1][name] = (given[0], 1), (1, given[1])
    pads: Any = kernel.node.attrs.get("pads", (0, 0, 0, 0))
    if any(pads):
        attrs[0]["pads"], attrs[1]["pads"] = (pads[0], 0, pads[2], 0), (0, pads[1], 0, pads[3])
    column = first.reshape(g, c, kh, rank).transpose(0, 3, 1, 2).reshape(g * rank, c, kh, 1)
    row = second.transpose(0, 3, 1, 2).reshape(g * kernel.outputs, rank, 1, kw)
    z = kernel.conv(r, kernel.x, column, "column", None, group=g, **attrs[0])
    return kernel.conv(r, z, row, "row", bias, group=g, **attrs[1])


def emit_cp(r: Rewriter, kernel: Kernel, factors: tuple[Array, Array, Array], bias: Array | None) -> Value:
    """``A`` [C, r] as 1x1, ``D`` [r, S] as a depthwise convolution, ``B`` [r, O] as 1x1."""
    a, d, b = factors
    z = kernel.pointwise(r, kernel.x, a[None], "in")
    z = kernel.core(r, z, d[:, None, :, None], "core", None)
    return kernel.pointwise(r, z, b[None], "out", bias)
