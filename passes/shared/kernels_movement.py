"""Kernels that copy elements or make shapes: exact for every element type."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ir.constants import Constant
from ...ir.dims import is_static
from ...ir.graph import Node
from .kernels import Array, NoKernel, Operands, axis_attr, ints, kernel, optional, present
from .operands import has_list, int_list, perm_of


@kernel("Identity")
def identity(node: Node, operands: Operands) -> list[Array]:
    return [present(operands, 0)]


@kernel("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshaped(node: Node, operands: Operands) -> list[Array]:
    """Inference knows the shape of the result."""
    x, shape = present(operands, 0), node.output.shape
    if shape is None or not is_static(shape) or math.prod(shape) != x.size:  # type: ignore[arg-type]
        raise NoKernel("the shape of the result is not known")
    return [x.reshape(shape)]  # type: ignore[arg-type]


@kernel("Transpose")
def transpose(node: Node, operands: Operands) -> list[Array]:
    x, perm = present(operands, 0), perm_of(node)
    if perm is None or sorted(perm) != list(range(x.ndim)):
        raise NoKernel(f"perm {perm} does not fit rank {x.ndim}")
    return [x.transpose(perm)]


@kernel("Concat")
def concat(node: Node, operands: Operands) -> list[Array]:
    parts = [present(operands, i) for i in range(len(operands))]
    return [np.concatenate(parts, axis_attr(node, parts[0].ndim, 1))]


@kernel("Split")
def split(node: Node, operands: Operands) -> list[Array]:
    x = present(operands, 0)
    axis = axis_attr(node, x.ndim, 0)
    sizes = int_list(node, "split", 1) if has_list(node, "split", 1) else _even_parts(node, x.shape[axis])
    if sizes is None or sum(sizes) != x.shape[axis] or len(sizes) != len(node.outputs) or 0 in sizes:
        raise NoKernel(f"split {sizes} does not fit extent {x.shape[axis]}")
    return np.split(x, np.cumsum(sizes[:-1]), axis)


def _even_parts(node: Node, extent: int) -> list[int]:
    parts = int(node.attr("num_outputs", 0) or len(node.outputs))
    size = -(-extent // parts)
    return [min(size, max(0, extent - i * size)) for i in range(parts)]


@kernel("Slice")
def slice_(node: Node, operands: Operands) -> list[Array]:
    x = present(operands, 0)
    starts, ends = int_list(node, "starts", 1), int_list(node, "ends", 2)
    if starts is None or ends is None:
        raise NoKernel("starts or ends are not known")
    axes = int_list(node, "axes", 3) if has_list(node, "axes", 3) else list(range(len(starts)))
    steps = ints(operands, 4) or [1] * len(starts)
    if axes is None or not len(starts) == len(ends) == len(axes) == len(steps):
        raise NoKernel("starts, ends, axes and steps have different lengths")
    at = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if not -x.ndim <= axis < x.ndim or step == 0:
            raise NoKernel(f"axis {axis} or step {step} is out of range")
        at[axis] = slice(*slice_bounds(start, end, step, x.shape[axis]), step)
    return [x[tuple(at)]]


def slice_bounds(start: int, end: int, step: int, extent: int) -> tuple[int, int | None]:
    """Python's bounds for ONNX's: negative ones count from the end, then both are clamped."""
    start = start + extent if start < 0 else start
    end = end + extent if end < 0 else end
    if step > 0:
        return min(max(start, 0), extent), min(max(end, 0), extent)
    start, end = min(max(start, 0), extent - 1), min(max(end, -1), extent - 1)
    return start, None if end < 0 else end


@kernel("Gather")
def gather(node: Node, operands: Operands) -> list[Array]:
    x, indices = present(operands, 0), present(operands, 1)
    axis = axis_attr(node, x.ndim, 0)
    return [np.take(x, _indices(indices, x.shape[axis]), axis)]


def _indices(indices: Array, extent: int) -> Array:
    if indices.size and (indices.min() < -extent or indices.max() >= extent):
        raise NoKernel(f"an index is out of range for extent {extent}")
    return np.where(indices < 0, indices + extent, indices)


@kernel("GatherElements")
def gather_elements(node: Node, operands: Operands) -> list[Array]:
    x, indices = present(operands, 0), present(operands, 1)
    axis = axis_attr(node, x.ndim, 0)
    wanted = _indices(indices, x.shape[axis])
    for i in range(x.ndim):
        if i != axis and wanted.shape[i] > x.shape[i]:
            raise NoKernel("the indices are larger than the data")
    x = x[tuple(slice(None) if i == axis else slice(wanted.shape[i]) for i in range(x.ndim))]
    return [np.take_along_axis(x, wanted, axis)]


@kernel("GatherND")
def gather_nd(node: Node, operands: Operands) -> list[Array]:
    x, indices = present(operands, 0), present(operands, 1)
    if node.attr("batch_dims", 0):
        raise NoKernel("batch_dims is not 0")
    depth = indices.shape[-1]
    parts = tuple(_indices(indices[..., i], x.shape[i]) for i in range(depth))
    return [x[parts] if depth else np.broadcast_to(x, indices.shape[:-1] + x.shape)]


@kernel("ScatterND")
def scatter_nd(node: Node, operands: Operands) -> list[Array]:
    x, indices, updates = (present(operands, i) for i in range(3))
    if node.attr("reduction", "none") not in ("none", None):
        raise NoKernel("reduction is not none")
    out, depth = x.copy(), indices.shape[-1]
    where = tuple(_indices(indices[..., i], x.shape[i]) for i in range(depth))
    flat = np.ravel_multi_index(where, x.shape[:depth]).reshape(-1) if depth else np.zeros(0, np.int64)
    if np.unique(flat).size != flat.size:
        raise NoKernel("two updates go to one place")
    out[where] = updates
    return [out]


@kernel("ScatterElements")
def scatter_elements(node: Node, operands: Operands) -> list[Array]:
    x, indices, updates = (present(operands, i) for i in range(3))
    axis = axis_attr(node, x.ndim, 0)
    wanted = _indices(indices, x.shape[axis])
    at = [np.broadcast_to(i, wanted.shape) for i in np.ix_(*map(np.arange, wanted.shape))]
    at[axis] = wanted
    flat = np.ravel_multi_index(tuple(at), x.shape).reshape(-1)
    if node.attr("reduction", "none") != "none" or np.unique(flat).size != flat.size:
        raise NoKernel("reduction is not none, or two updates go to one place")
    out = x.copy()
    out[tuple(at)] = updates
    return [out]


@kernel("EyeLike")
def eye_like(node: Node, operands: Operands) -> list[Array]:
    x, dtype = present(operands, 0), node.output.dtype
    if x.ndim != 2 or dtype is None:
        raise NoKernel("the operand is not a matrix")
    rows, columns = x.shape
    return [np.eye(rows, columns, int(node.attr("k", 0))).astype(dtype.numpy)]


@kernel("Expand")
def expand(node: Node, operands: Operands) -> list[Array]:
    x, shape = present(operands, 0), ints(operands, 1) or []
    return [np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape)))]


@kernel("Tile")
def tile(node: Node, operands: Operands) -> list[Array]:
    x, repeats = present(operands, 0), ints(operands, 1)
    if repeats is None or len(repeats) != x.ndim or node.version < 6:
        raise NoKernel(f"repeats {repeats} do not fit rank {x.ndim}")
    return [np.tile(x, repeats)]


@kernel("Pad")
def pad(node: Node, operands: Operands) -> list[Array]:
    x, pads = present(operands, 0), int_list(node, "pads", 1)
    if node.attr("mode", "constant") != "constant" or pads is None:
        raise NoKernel("mode is not constant")
    axes = ints(operands, 3) if optional(operands, 3) is not None else list(range(x.ndim))
    if axes is None or len(pads) != 2 * len(axes) or min(pads, default=0) < 0 or x.dtype == object:
        raise NoKernel("pads are negative or do not fit")
    widths = [(0, 0)] * x.ndim
    for i, axis in enumerate(axes):
        widths[axis] = (pads[i], pads[i + len(axes)])
    given = optional(operands, 2)
    fill = (
        given.reshape(-1)[0]
        if given is not None and given.size
        else np.asarray(node.attr("value", 0.0)).astype(x.dtype)
    )
    out = np.full([n + a + b for n, (a, b) in zip(x.shape, widths, strict=True)], fill, x.dtype)
    out[tuple(slice(a, a + n) for n, (a, _) in zip(x.shape, widths, strict=True))] = x
    return [out]


@kernel("Where")
def where(node: Node, operands: Operands) -> list[Array]:
    return [np.where(*(present(operands, i) for i in range(3)))]


@kernel("ConstantOfShape")
def constant_of_shape(node: Node, operands: Operands) -> list[Array]:
    value = node.attrs.get("value")
    item: Any = value.numpy().reshape(-1)[0] if isinstance(value, Constant) else np.zeros((), np.float32)
    return [np.broadcast_to(item, ints(operands, 0) or ())]


@kernel("Shape")
def shape(node: Node, operands: Operands) -> list[Array]:
    x = present(operands, 0)
    start, end = node.attr("start", 0), node.attr("end")
    return [np.array(x.shape[start:end], np.int64)]


@kernel("Size")
def size(node: Node, operands: Operands) -> list[Array]:
    return [np.array(present(operands, 0).size, np.int64)]


@kernel("Range")
def range_(node: Node, operands: Operands) -> list[Array]:
    start, limit, delta = (present(operands, i).reshape(-1)[0] for i in range(3))
    if delta == 0 or not all(np.isfinite(float(v)) for v in (start, limit, delta)):
        raise NoKernel("delta is 0 or a bound is not finite")
    if start.dtype.kind == "f" and not all(float(v).is_integer() and abs(v) < 1 << 24 for v in (start, limit, delta)):
        raise NoKernel("runtimes round fractional steps differently")
    count = max(0, math.ceil((limit.item() - start.item()) / delta.item()))
    return [(start.item() + np.arange(count) * delta.item()).astype(start.dtype)]


@kernel("NonZero")
def nonzero(node: Node, operands: Operands) -> list[Array]:
    x = present(operands, 0)
    if x.ndim == 0:
        raise NoKernel("the operand is a scalar")
    return [np.array(np.nonzero(x), np.int64)]


@kernel("Trilu")
def trilu(node: Node, operands: Operands) -> list[Array]:
    x, k = present(operands, 0), (ints(operands, 1) or [0])[0]
    return [np.triu(x, k) if node.attr("upper", 1) else np.tril(x, k)]


@kernel("OneHot")
def one_hot(node: Node, operands: Operands) -> list[Array]:
    indices, depth, values = present(operands, 0), int(present(operands, 1).reshape(-1)[0]), present(operands, 2)
    axis = axis_attr(node, indices.ndim + 1, -1)
    if indices.dtype.kind not in "iu" or depth <= 0:
        raise NoKernel("indices are not integers")
    wanted = np.where(indices < 0, indices + depth, indices)
    hot = np.expand_dims(wanted, axis) == np.arange(depth).reshape(
        [-1 if i == axis else 1 for i in range(indices.ndim + 1)]
    )
    return [np.where(hot, values[1], values[0])]


@kernel("DepthToSpace")
def depth_to_space(node: Node, operands: Operands) -> list[Array]:
    x, b = present(operands, 0), int(node.attr("blocksize"))
    n, c, h, w = x.shape
    if node.attr("mode", "DCR") == "DCR":
        y = x.reshape(n, b, b, c // (b * b), h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(n, c // (b * b), b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return [y.reshape(n, c // (b * b), h * b, w * b)]


@kernel("SpaceToDepth")
def space_to_depth(node: Node, operands: Operands) -> list[Array]:
    x, b = present(operands, 0), int(node.attr("blocksize"))
    n, c, h, w = x.shape
    return [x.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)]
