"""Convolutions and poolings of exact numbers: windows become rows of a matrix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ir.graph import Node
from ...passes.rewrite.rule import NoMatch
from ...passes.shared.windows import steps, window_pads
from . import number as N
from .number import Array, Number, Undecided


def conv(node: Node, x: Number, w: Number, bias: Number | None) -> Number:
    """Conv-1, -11, -22."""
    spatial = len(w.shape) - 2
    pads, strides = _pads(node, spatial), steps(node, "strides", spatial)
    return _conv(_padded(x, pads), w, bias, strides, steps(node, "dilations", spatial), int(node.attr("group", 1)))


def _conv(x: Number, w: Number, bias: Number | None, strides: Any, dilations: Any, groups: int) -> Number:
    n, channels, m, kernel = x.shape[0], x.shape[1], w.shape[0], w.shape[2:]
    if w.shape[1] * groups != channels or m % groups:
        raise Undecided(f"weights of {w.shape[1]} channels in {groups} groups for {channels}")
    views = x.map(lambda a: _windows(a, kernel, strides, dilations))
    out = views.shape[2 : 2 + len(kernel)]
    rows, columns = w.shape[1] * math.prod(kernel), math.prod(out)
    k = len(kernel)
    # [N, C, out..., kernel...] to [N, groups, C/groups * kernel, out]
    order = (0, 1, *range(2 + k, 2 + 2 * k), *range(2, 2 + k))
    table = views.map(lambda a: a.transpose(order).reshape(n, groups, rows, columns))
    product = N.matmul(w.map(lambda a: a.reshape(groups, m // groups, rows)), table)
    y = product.map(lambda a: a.reshape(n, m, *out))
    return y if bias is None else N.add(y, bias.map(lambda a: a.reshape(-1, *[1] * k)))


def _windows(a: Array, kernel: tuple[int, ...], strides: Any, dilations: Any) -> Array:
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    axes = tuple(range(2, 2 + len(kernel)))
    if any(size < r for size, r in zip(a.shape[2:], reach, strict=True)):
        counts = [(size - r) // s + 1 for size, r, s in zip(a.shape[2:], reach, strides, strict=True)]
        if min(counts) < 0:
            raise Undecided("the window is larger than the padded operand")
        return np.zeros((*a.shape[:2], *counts, *kernel), a.dtype)
    views = np.lib.stride_tricks.sliding_window_view(a, reach, axis=axes)
    at = (slice(None), slice(None), *(slice(None, None, s) for s in strides))
    return views[(*at, *(slice(None, None, d) for d in dilations))]


def _pads(node: Node, spatial: int) -> tuple[int, ...]:
    try:
        pads = window_pads(node, spatial)
    except NoMatch as error:
        raise Undecided(error.reason) from None
    if min(pads, default=0) < 0:
        raise Undecided("pads are negative")
    return pads


def _padded(x: Number, pads: tuple[int, ...], fill: Number | None = None) -> Number:
    if not any(pads):
        return x
    k = len(pads) // 2
    widths = [(0, 0), (0, 0), *zip(pads[:k], pads[k:], strict=True)]
    parts = zip(x.parts, (0, 0, 0) if fill is None else fill.parts, strict=True)
    return Number.of((np.pad(a, widths, constant_values=b) for a, b in parts), x.grid)


def conv_transpose(node: Node, x: Number, w: Number, bias: Number | None) -> Number:
    """ConvTranspose-1, -11, -22: a convolution of the operand spread out, with the weights turned around."""
    spatial = len(w.shape) - 2
    if "output_shape" in node.attrs or node.attr("auto_pad", "NOTSET") not in ("NOTSET", b"NOTSET"):
        raise Undecided("the pads of a ConvTranspose follow from its output's shape")
    pads, strides = _pads(node, spatial), steps(node, "strides", spatial)
    dilations, groups = steps(node, "dilations", spatial), int(node.attr("group", 1))
    extra: Any = node.attrs.get("output_padding") or (0,) * spatial
    reach = [(k - 1) * d for k, d in zip(w.shape[2:], dilations, strict=True)]
    begins = [r - p for r, p in zip(reach, pads[:spatial], strict=True)]
    # Spread out, n elements take (n - 1) * stride + 1 places; none take 1 - stride, which padding makes up for.
    short = [0 if n else s - 1 for n, s in zip(x.shape[2:], strides, strict=True)]
    ends = [r - p + e - m for r, p, e, m in zip(reach, pads[spatial:], extra, short, strict=True)]
    if min(*begins, *ends, 0) < 0:
        raise Undecided("pads exceed the kernel's reach")
    c, m = w.shape[0], w.shape[1]
    axes = tuple(range(3, 3 + spatial))

    def turned(a: Array) -> Array:
        a = a.reshape(groups, c // groups, m, *w.shape[2:]).swapaxes(1, 2)
        return np.flip(a, axes).reshape(groups * m, c // groups, *w.shape[2:])

    wide = _padded(x.map(lambda a: _spread(a, strides)), (*begins, *ends))
    return _conv(wide, w.map(turned), bias, (1,) * spatial, dilations, groups)


def _spread(a: Array, strides: tuple[int, ...]) -> Array:
    sizes = [max((n - 1) * s + 1, 0) for n, s in zip(a.shape[2:], strides, strict=True)]
    out = np.zeros((*a.shape[:2], *sizes), a.dtype)
    out[(slice(None), slice(None), *(slice(None, None, s) for s in strides))] = a
    return out


def pool(node: Node, x: Number) -> Number:
    """MaxPool and AveragePool."""
    given: Any = node.attrs.get("kernel_shape")
    kernel: tuple[int, ...] = tuple(given)
    spatial = len(kernel)
    strides, dilations = steps(node, "strides", spatial), steps(node, "dilations", spatial)
    pads = _pads(node, spatial)
    more = _ceiling(node, x.shape[2:], kernel, strides, dilations, pads)
    whole = (*pads[:spatial], *(p + e for p, e in zip(pads[spatial:], more, strict=True)))
    if node.op == "MaxPool":
        views = _padded(x, whole, N.number(-np.inf)).map(lambda a: _windows(a, kernel, strides, dilations))
        parts = _positions(views, spatial)
        best = parts[0]
        for part in parts[1:]:
            best = N.largest(best, part)
        return best
    views = _padded(x, whole).map(lambda a: _windows(a, kernel, strides, dilations))
    sums = views.map(lambda a: a.reshape(*a.shape[: 2 + spatial], -1))
    counted = np.ones((1, 1, *x.shape[2:]))
    own = pads if node.attr("count_include_pad", 0) else (0,) * (2 * spatial)
    outer = tuple(w - o for w, o in zip(whole, own, strict=True))
    counts = _pad_by(_pad_by(counted, own, 1.0), outer, 0.0)
    windows = _windows(counts, kernel, strides, dilations).reshape(1, 1, *sums.shape[2 : 2 + spatial], -1).sum(-1)
    return N.divide(N.total(sums, -1), N.constant(windows))


def _pad_by(a: Array, pads: tuple[int, ...], fill: float) -> Array:
    k = len(pads) // 2
    return np.pad(a, [(0, 0), (0, 0), *zip(pads[:k], pads[k:], strict=True)], constant_values=fill)


def _positions(views: Number, spatial: int) -> list[Number]:
    flat = views.map(lambda a: a.reshape(*a.shape[: 2 + spatial], -1))
    return [flat.map(lambda a, i=i: a[..., i]) for i in range(flat.shape[-1])]


def _ceiling(
    node: Node, sizes: Any, kernel: Any, strides: Any, dilations: Any, pads: tuple[int, ...]
) -> tuple[int, ...]:
    """Elements that ``ceil_mode`` adds at the ends."""
    if not node.attr("ceil_mode", 0):
        return (0,) * len(kernel)
    found: list[int] = []
    for i, (size, k, s, d) in enumerate(zip(sizes, kernel, strides, dilations, strict=True)):
        begin, end = pads[i], pads[i + len(kernel)]
        room = size + begin + end - ((k - 1) * d + 1)
        count = -(-room // s)
        if count * s >= size + begin:  # a window that starts in the padding at the end does not count
            count -= 1
        found.append(max(count * s - room, 0))
    return tuple(found)
