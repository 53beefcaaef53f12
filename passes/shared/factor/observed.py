"""Second moments and means of the rows that weights are multiplied with, observed on samples.

What convolutions multiply their weights with are patches of the image: they are written out by a convolution with ones,
in a copy of the model that only observes. Where patches are too wide, and for ConvTranspose, the channels at each
position are observed instead.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....ir.clone import clone_model
from ....ir.constants import ArrayConstant
from ....ir.graph import Model, Node, Value
from ...core import Context
from ...rewrite.rewriter import Rewriter
from ..quant.statistics import Kind, Statistics, Want, value_names
from .inputs import Inputs, inputs_of

WIDEST = 2048
"""Numbers of a patch beyond which only channels are observed: moments take 8 bytes for the square."""
_CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class Observations:
    """What was seen of the rows that nodes multiply their weights with."""

    statistics: Statistics | None
    names: dict[Node, str]

    def of(self, nodes: Sequence[Node]) -> Inputs | None:
        """Of several nodes together; ``None`` where one was not observed."""
        s = self.statistics
        return None if s is None else inputs_of([s.get(self.names[n]) for n in nodes])

    def key(self, nodes: Sequence[Node]) -> object:
        """Says which observations a result depends on."""
        s = self.statistics
        return None if s is None else (s.model, s.samples, tuple(self.names[n] for n in nodes))


def observe_inputs(model: Model, nodes: Sequence[Node], ctx: Context, parts: Collection[Node] = ()) -> Observations:
    """Rows along the last axis of operand 0 of MatMul and Gemm, patches [C * kh * kw] or channels [C] of others.

    Of the nodes in ``parts``, which read a part of a Split, the whole is observed.
    """
    if ctx.observe is None or not nodes:
        return Observations(None, {})
    model, asked = before_choices(model, nodes, ctx)
    found = _observed(model, asked, ctx, parts)
    return Observations(found.statistics, {node: found.names[was] for node, was in zip(nodes, asked, strict=True)})


def before_choices(model: Model, nodes: Sequence[Node], ctx: Context) -> tuple[Model, list[Node]]:
    """The model before its first lossy pass, and the nodes in it, where all of them are known there: what is observed
    then holds for every choice, and nothing is observed twice."""
    if ctx.before is None:
        return model, list(nodes)
    same = [ctx.before.node(node) for node in nodes]
    known = [node for node in same if node is not None]
    return (ctx.before.model, known) if len(known) == len(same) else (model, list(nodes))


def _observed(model: Model, nodes: Sequence[Node], ctx: Context, parts: Collection[Node]) -> Observations:
    assert ctx.observe is not None
    wanted = set(nodes)
    if any(node.op in _CONVOLUTIONS for node in nodes):
        probed = clone_model(model)
        pairs = [(a, b) for a, b in zip(model.all_nodes(), probed.all_nodes(), strict=True) if a in wanted]
        r = Rewriter(Context(), "observe-inputs")
        made: dict[tuple[object, ...], Value] = {}
        rows = {a: rows_of(r, b, made, whole=a in parts) for a, b in pairs}
    else:
        probed, rows = model, {node: _operand(node, whole=node in parts) for node in nodes}
    names = value_names(probed)
    found = {node: names[value] for node, value in rows.items()}
    wants = [Want(name, Kind.MOMENTS | Kind.CHANNELS, -1) for name in dict.fromkeys(found.values())]
    return Observations(ctx.observe(probed, wants), found)


def _operand(node: Node, *, whole: bool) -> Value:
    x = node.inputs[0]
    if whole and x is not None and x.producer is not None:
        x = x.producer.inputs[0]
    assert x is not None
    return x


def rows_of(r: Rewriter, node: Node, made: dict[tuple[object, ...], Value], *, whole: bool = False) -> Value:
    """A value whose last axis holds what the weight's inputs are; ``made`` holds those that are there."""
    x = _operand(node, whole=whole)
    if node.op not in _CONVOLUTIONS:
        return x
    weight = node.inputs[1]
    assert weight is not None
    assert weight.data is not None
    shape, groups = weight.data.shape, int(node.attr("group", 1))
    channels = shape[0] if node.op == "ConvTranspose" else shape[1] * groups
    kernel, attrs = shape[2:], {k: v for k, v in node.attrs.items() if k not in ("group", "kernel_shape")}
    if node.op == "ConvTranspose" or whole or _is_plain(kernel, attrs) or channels * math.prod(kernel) > WIDEST:
        kernel, attrs = (1,) * len(kernel), {}
    key = (id(x), kernel, tuple(sorted((k, str(v)) for k, v in attrs.items())))
    if key not in made:
        r.begin(node)
        made[key] = _patches(r, x, channels, kernel, attrs)
    return made[key]


def _is_plain(kernel: tuple[int, ...], attrs: dict[str, Any]) -> bool:
    """Whether patches are the channels at each position."""
    moved = any(attrs.get("pads", ())) or any(s != 1 for s in attrs.get("strides", ()))
    return math.prod(kernel) == 1 and not moved and attrs.get("auto_pad", "NOTSET") in ("NOTSET", "", "VALID")


def _patches(r: Rewriter, x: Value, channels: int, kernel: tuple[int, ...], attrs: dict[str, Any]) -> Value:
    """[N, positions..., C * kh * kw] of an image [N, C, ...]."""
    size, dtype = math.prod(kernel), x.dtype
    if size > 1 or attrs:
        ones = np.eye(size, dtype=np.float32).reshape(1, size, 1, *kernel)
        weight = np.broadcast_to(ones, (channels, size, 1, *kernel)).reshape(channels * size, 1, *kernel)
        data = ArrayConstant(weight.astype(np.float32 if dtype is None else dtype.numpy), dtype)
        x = r.op("Conv", x, r.const(data), group=channels, kernel_shape=kernel, **attrs)
    perm = (0, *range(2, 2 + len(kernel)), 1)
    moved: Value = r.Transpose(x, perm=perm)
    return moved
