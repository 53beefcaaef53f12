"""Sliding windows: padding of convolutions and poolings, and of ``Pad``, in explicit numbers.

Pads are in ONNX order: all begins, then all ends, of the spatial axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...ir.graph import Node, Value
from ..rewrite.rule import NoMatch
from .attributes import require_own_attributes

Pads = tuple[int, ...]


def window_pads(node: Node, spatial: int) -> Pads:
    """Pads of a Conv or pooling with ``spatial`` spatial axes. Raises :class:`NoMatch` where they are unknown."""
    require_own_attributes(node)
    mode = node.attr("auto_pad", "NOTSET")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    if mode in ("NOTSET", ""):
        pads = node.attrs.get("pads") or (0,) * (2 * spatial)
        if not isinstance(pads, tuple) or len(pads) != 2 * spatial:
            raise NoMatch(f"pads is {pads!r}, expected {2 * spatial} numbers")
        return tuple(int(p) for p in pads)  # pyright: ignore[reportArgumentType]
    if mode == "VALID":
        return (0,) * (2 * spatial)
    x = node.input(0)
    sizes = x.shape[2:] if x is not None and x.shape is not None else ()
    if len(sizes) != spatial or not all(isinstance(d, int) for d in sizes):
        raise NoMatch(f"auto_pad is {mode} and the spatial extents are not known numbers")
    begins: list[int] = []
    ends: list[int] = []
    strides, dilations = steps(node, "strides", spatial), steps(node, "dilations", spatial)
    for size, kernel, stride, dilation in zip(sizes, window(node), strides, dilations, strict=True):
        assert isinstance(size, int)
        total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begins.append(large if mode == "SAME_LOWER" else small)
        ends.append(small if mode == "SAME_LOWER" else large)
    return (*begins, *ends)


def window(node: Node) -> Pads:
    """The kernel's spatial extents. Raises :class:`NoMatch` where they are unknown."""
    given = node.attrs.get("kernel_shape")
    if isinstance(given, tuple):
        return tuple(int(k) for k in given)  # pyright: ignore[reportArgumentType]
    weight = node.input(1)
    if weight is None or weight.shape is None or not all(isinstance(d, int) for d in weight.shape):
        raise NoMatch("the kernel's extents are unknown")
    return tuple(int(d) for d in weight.shape[2:])  # pyright: ignore[reportArgumentType]


def steps(node: Node, name: str, spatial: int) -> Pads:
    """``strides`` or ``dilations``, ones where they are not given."""
    given: Any = node.attrs.get(name)
    return tuple(int(s) for s in given) if given else (1,) * spatial


@dataclass(frozen=True)
class Padding:
    """What a ``Pad`` node does: ``pads`` for all axes, begins then ends, and the number it fills with."""

    pads: Pads
    fill: float

    @property
    def rank(self) -> int:
        return len(self.pads) // 2

    def spatial(self) -> Pads:
        """Pads of the axes from 2 on. Raises :class:`NoMatch` for negative ones and for padded batches or channels."""
        rank = self.rank
        if rank < 3:
            raise NoMatch(f"Pad of rank {rank} has no spatial axes")
        begins, ends = self.pads[:rank], self.pads[rank:]
        if any((*begins[:2], *ends[:2])):
            raise NoMatch("Pad extends the batch or the channels")
        if min(self.pads) < 0:
            raise NoMatch("Pad crops (negative pads)")
        return (*begins[2:], *ends[2:])


def padding_of(node: Node) -> Padding:
    """The constant padding by a ``Pad`` node. Raises :class:`NoMatch` for other modes and computed pads.

    Source: Pad-1 (``paddings``), -2 (attributes), -11, -13 (operands), -18 (``axes``), -19 (``wrap``) and later.
    """
    require_own_attributes(node)
    mode = node.attr("mode", "constant")
    if mode not in ("constant", b"constant"):
        raise NoMatch(f"Pad mode is {mode}, expected constant")
    if node.version < 11:
        pads: Any = node.attrs.get("pads" if node.version >= 2 else "paddings")
        fill = float(node.attr("value", 0.0))
        if not isinstance(pads, tuple):
            raise NoMatch("Pad has no pads")
    else:
        pads = _numbers(node.input(1), "pads")
        fill = _fill(node.input(2))
        if node.version >= 18 and node.input(3) is not None:
            pads = _on_all_axes(node, pads, _numbers(node.input(3), "axes"))
    return Padding(tuple(int(p) for p in pads), fill)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _on_all_axes(node: Node, pads: list[int], axes: list[int]) -> list[int]:
    x = node.input(0)
    if x is None or x.rank is None:
        raise NoMatch("Pad has axes and the operand's rank is unknown")
    whole = [0] * (2 * x.rank)
    for i, axis in enumerate(axes):
        whole[axis % x.rank] = pads[i]
        whole[axis % x.rank + x.rank] = pads[i + len(axes)]
    return whole


def _numbers(value: Value | None, what: str) -> list[int]:
    if value is None or value.data is None:
        raise NoMatch(f"the {what} of Pad are not constant")
    return [int(n) for n in value.numpy().reshape(-1)]


def _fill(value: Value | None) -> float:
    if value is None:
        return 0.0
    if value.data is None or value.data.count != 1:
        raise NoMatch("the fill of Pad is not a constant number")
    return float(value.numpy().reshape(-1)[0])
