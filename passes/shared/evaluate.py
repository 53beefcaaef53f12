"""Evaluates nodes whose operands are constant, within stated bounds, to constants.

Bounds are checked on inferred types before anything is computed. A tensor that is the same everywhere
stays a splat, whatever its size, and takes no memory.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np

from ...ir.constants import ArrayConstant, Constant, SplatConstant
from ...ir.dims import is_static
from ...ir.dtypes import DType
from ...ir.graph import AttrRef, Node, Value
from ...ir.ops import ELEMENTWISE
from ...ir.repetition import compacted, repeated
from . import kernels_math, kernels_movement  # noqa: F401  # pyright: ignore[reportUnusedImport]  (they register)
from .kernels import KERNELS, Array, NoKernel

SPLAT_BYTES = 64
"""Results up to this size are written out element by element."""
SHAPELESS_ELEMENTS = 1 << 12
"""Largest operand of a node whose result's shape is not known before it is computed."""
_SHAPELESS = ("NonZero",)
_SPREADS = frozenset(
    ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Expand", "Tile", "Slice", "Split")
)
"""Movement whose results hold nothing but elements of the first operand."""


def has_kernel(node: Node) -> bool:
    """Whether some node of this operator can be evaluated."""
    return node.domain == "" and node.op in KERNELS


def static_shape(value: Value) -> tuple[int, ...] | None:
    """The shape where all extents are plain integers."""
    shape = value.shape
    return cast("tuple[int, ...]", shape) if shape is not None and is_static(shape) else None


def evaluate(node: Node, *, max_bytes: int, max_work: int) -> list[Constant]:
    """The outputs of ``node``, whose operands are all constant.

    ``max_bytes`` bounds every dense output, ``max_work`` the elements read, written and multiplied. Raises
    :class:`NoKernel` where the node cannot be evaluated or would exceed a bound.
    """
    if not has_kernel(node):
        raise NoKernel(f"there is no kernel for {node.op}")
    if any(isinstance(a, AttrRef) for a in node.attrs.values()):
        raise NoKernel("an attribute is the caller's")
    data = [None if v is None else v.data for v in node.inputs]
    small = _splat(node, data) or _expanded(node, data)
    if small is not None:
        return small
    _check_bounds(node, data, max_bytes, max_work)
    try:
        arrays = KERNELS[node.op](node, [None if d is None else d.numpy() for d in data])
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        raise NoKernel(f"the operands do not fit: {error}") from error
    if len(arrays) < len(node.outputs):
        raise NoKernel(f"{node.op} gave {len(arrays)} results for {len(node.outputs)}")
    return [_constant(array, out) for array, out in zip(arrays, node.outputs, strict=False)]


def _constant(array: Array, out: Value) -> Constant:
    made = ArrayConstant(np.ascontiguousarray(array).reshape(array.shape))
    expected = out.tensor
    if expected is not None and (
        (expected.dtype is not None and expected.dtype is not made.dtype)
        or (static_shape(out) is not None and static_shape(out) != made.shape)
    ):
        raise NoKernel(f"computed {made.type}, inference says {expected}")
    return compacted(made)


def _check_bounds(node: Node, data: list[Constant | None], max_bytes: int, max_work: int) -> None:
    read = sum(d.count for d in data if d is not None)
    written = 0
    for out in node.outputs:
        shape = static_shape(out)
        if shape is None or out.dtype is None:
            if node.op in _SHAPELESS and read <= SHAPELESS_ELEMENTS:
                continue
            raise NoKernel(f"the extent of %{out.name} is not known before it is computed")
        written += math.prod(shape)
        size = out.dtype.nbytes(math.prod(shape))
        if size > max_bytes:
            raise NoKernel(f"%{out.name} would take {size} bytes, the limit is {max_bytes}")
    work = max(read, written)
    if node.op in ("MatMul", "Gemm") and data[0] is not None and data[0].shape:
        a = data[0].shape
        work = max(work, written * (a[0] if node.op == "Gemm" and node.attr("transA", 0) else a[-1]))
    if work > max_work:
        raise NoKernel(f"{node.op} takes {work} operations, the limit is {max_work}")


# -- splats


def _splat(node: Node, data: list[Constant | None]) -> list[Constant] | None:
    """The outputs where they are the same everywhere and larger than a few elements."""
    shapes = [static_shape(out) for out in node.outputs]
    if any(s is None for s in shapes) or node.outputs[0].dtype in (None, DType.STRING):
        return None
    dtype = cast("DType", node.outputs[0].dtype)
    if all(dtype.nbytes(math.prod(cast("tuple[int, ...]", s))) <= SPLAT_BYTES for s in shapes):
        return None
    item = _splat_item(node, data)
    if item is None or item.dtype != dtype.numpy:
        return None
    return [SplatConstant(item.reshape(-1)[0], dtype, cast("tuple[int, ...]", s)) for s in shapes]


def _expanded(node: Node, data: list[Constant | None]) -> list[Constant] | None:
    """The result of an Expand that repeats its operand often enough for a file to say so."""
    shape, operand = static_shape(node.output), data[0] if data else None
    if node.op != "Expand" or shape is None or operand is None or operand.dtype is not node.output.dtype:
        return None
    base = operand.numpy()
    if 4 * operand.nbytes > operand.dtype.nbytes(math.prod(shape)) or base.ndim > len(shape):
        return None
    found = repeated(base.reshape((1,) * (len(shape) - base.ndim) + base.shape), operand.dtype, shape)
    return None if isinstance(found, ArrayConstant) else [found]


def _splat_item(node: Node, data: list[Constant | None]) -> Array | None:
    """The element that all outputs consist of."""
    if node.op == "ConstantOfShape":
        value = node.attrs.get("value")
        return value.numpy() if isinstance(value, Constant) else np.zeros(1, np.float32)
    if not data:
        return None
    if node.op in _SPREADS:
        return _item(data[0])
    if ("", node.op) not in ELEMENTWISE:
        return None
    items = [None if d is None else _item(d) for d in data]
    if any(i is None and d is not None for i, d in zip(items, data, strict=True)):
        return None
    return KERNELS[node.op](node, items)[0]


def _item(data: Constant | None) -> Array | None:
    """The element, as an array of shape ``[]``, of a tensor that is known to be the same everywhere."""
    if data is None:
        return None
    if isinstance(data, SplatConstant):
        return np.asarray(data.value)
    return data.numpy().reshape(()) if data.count == 1 else None
