"""Type rules of sliding windows: convolutions and pools, with symbolic extents."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from ..dims import Dim, Shape, SymDim, add, floordiv, mul, sub
from ..dtypes import DType
from ..graph import Node
from ..types import TensorType
from .rules import (
    Types,
    axes_of,
    common_dtype,
    dtype_of,
    elements,
    equal_dim,
    fail,
    int_attr,
    ints_attr,
    row,
    shape_of,
    tensor,
    version,
)


class Window:
    """Kernel, strides, dilations and padding of a node, completed with their defaults."""

    __slots__ = ("auto", "ceil", "dilations", "exact_ceil", "kernel", "pads", "strides")

    def __init__(self, node: Node, kernel: tuple[Dim, ...]) -> None:
        attrs = node.attrs
        n = len(kernel)
        self.kernel = kernel
        self.strides = _list(node, "strides", n, 1)
        self.dilations = _list(node, "dilations", n, 1)
        self.pads = _list(node, "pads", 2 * n, 0)
        auto = attrs.get("auto_pad", "NOTSET")
        self.auto = "" if auto == "NOTSET" else str(auto)
        self.ceil = bool(attrs.get("ceil_mode", 0))
        self.exact_ceil = version(node) >= 22 or node.domain != ""

    def extents(self, spatial: Shape) -> Shape:
        """Extents of the result along the spatial axes."""
        n = len(self.kernel)
        return tuple(
            [
                _extent(
                    d,
                    self.kernel[i],
                    self.strides[i],
                    self.dilations[i],
                    (self.pads[i], self.pads[i + n]),
                    self.auto,
                    self.ceil,
                    self.exact_ceil,
                )
                for i, d in enumerate(spatial)
            ]
        )


def _list(node: Node, name: str, n: int, default: int) -> tuple[int, ...]:
    found = ints_attr(node, name)
    if found is None:
        return (default,) * n
    if len(found) != n or (default and min(found) < 1):
        least = ", each at least 1" if default else ""
        fail(node, f"{name} is {found!r}, expected {n} numbers{least}")
    return found


@lru_cache(1 << 14)
def _extent(
    d: Dim, kernel: Dim, stride: int, dilation: int, pads: tuple[int, int], auto: str, ceil: bool, exact_ceil: bool
) -> Dim:
    """Number of window positions along one axis. Source: Conv-22, MaxPool-22.

    In ceil mode a last window that would start in the padding does not count (ONNX Runtime, PyTorch and
    MaxPool-22; older texts count it, so that the extent is unknown where it matters).
    """
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        return floordiv(add(d, stride - 1), stride)
    if kernel is None:
        return None
    if auto == "VALID":
        pads = (0, 0)
    span = add(mul(sub(kernel, 1), dilation), 1)
    room = sub(add(d, pads[0] + pads[1]), span)
    if room is None or (type(room) is int and room < 0):
        return None  # the window does not fit, or nothing is known
    if not ceil or stride == 1:
        return add(floordiv(room, stride), 1)
    last = floordiv(add(room, stride - 1), stride)
    if auto == "VALID":
        return None  # the two formulas of the standard contradict each other
    if isinstance(span, int) and span >= pads[1] + stride:
        return add(last, 1)
    if type(last) is not int or type(d) is not int:
        return None
    starts_in_padding = last * stride >= d + pads[0]
    return last + 1 if not starts_in_padding else last if exact_ceil else None


# -- convolutions


def _weight_kernel(node: Node, x: Shape | None, w: Shape | None) -> tuple[Dim, ...] | None:
    """The kernel's extents from attribute or weight; ``None`` where not even their number is known."""
    attr = ints_attr(node, "kernel_shape")
    n = len(w) - 2 if w is not None else len(x) - 2 if x is not None else len(attr) if attr is not None else None
    if n is None:
        return None
    if n < 1 or (x is not None and len(x) != n + 2):
        fail(node, f"data has rank {len(x or ())}, weight {len(w or ())}: expected equal ones, at least 3")
    if attr is not None:
        if len(attr) != n:
            fail(node, f"kernel_shape is {attr!r}, expected {n} numbers")
        if w is not None:
            for a, b in zip(attr, w[2:], strict=True):
                equal_dim(node, a, b, "kernel_shape and weight")
        return attr
    return w[2:] if w is not None else (None,) * n


def convolved(node: Node, x: Shape | None, w: Shape | None) -> Shape | None:
    """The shape of ``Conv``: data ``[N, C, ...]``, weight ``[M, C / group, ...]``."""
    kernel = _weight_kernel(node, x, w)
    if kernel is None:
        return None
    batch: Dim = None
    spatial: Shape = (None,) * len(kernel)
    if x is not None:
        batch, spatial = x[0], x[2:]
        if w is not None and type(w[1]) is int:
            equal_dim(node, x[1], w[1] * int_attr(node, "group", 1), "channels of data and weight times group")
    return (batch, None if w is None else w[0], *Window(node, kernel).extents(spatial))


@row("Conv")
def conv(node: Node) -> Types:
    return [TensorType(common_dtype(node, 0, 1), convolved(node, shape_of(node, 0), shape_of(node, 1)))]


@row("ConvInteger")
def conv_integer(node: Node) -> Types:
    return [TensorType(DType.I32, convolved(node, shape_of(node, 0), shape_of(node, 1)))]


@row("QLinearConv")
def qlinear_conv(node: Node) -> Types:
    """Operands x, scale, zero point, w, scale, zero point, y scale, y zero point."""
    return [TensorType(dtype_of(node, 7), convolved(node, shape_of(node, 0), shape_of(node, 3)))]


@row("ConvTranspose")
def conv_transpose(node: Node) -> Types:
    """Weight ``[C, M / group, ...]``."""
    return transposed(node, None)


def transposed(node: Node, pads: Sequence[Dim] | None) -> Types:
    """The result of ``ConvTranspose`` with ``pads`` in place of the attribute's."""
    x, w = shape_of(node, 0), shape_of(node, 1)
    dtype = common_dtype(node, 0, 1)
    kernel = _weight_kernel(node, x, w)
    if kernel is None:
        return [TensorType(dtype)]
    group = int_attr(node, "group", 1)
    channels = mul(w[1], group) if w is not None else None
    spatial: Shape = (None,) * len(kernel)
    batch: Dim = None
    if x is not None:
        batch, spatial = x[0], x[2:]
        if w is not None:
            equal_dim(node, x[1], w[0], "channels of data and weight")
    return [TensorType(dtype, (batch, channels, *_upsampled(node, spatial, kernel, pads)))]


def _upsampled(node: Node, spatial: Shape, kernel: tuple[Dim, ...], given: Sequence[Dim] | None) -> Shape:
    n = len(kernel)
    stated = ints_attr(node, "output_shape")
    if stated is not None:
        return stated[-n:]  # ONNX Runtime takes it with batch and channels too
    window = Window(node, kernel)
    extra = ints_attr(node, "output_padding") or (0,) * n
    out: list[Dim] = []
    for i, d in enumerate(spatial):
        if window.auto.startswith("SAME"):
            out.append(mul(d, window.strides[i]))
            continue
        span = add(mul(sub(kernel[i], 1), window.dilations[i]), 1)
        pads: Dim = 0 if window.auto == "VALID" else window.pads[i] + window.pads[i + n]
        if given is not None:
            pads = add(given[i], given[i + n]) if len(given) == 2 * n else None
        grown = add(mul(sub(d, 1), window.strides[i]), sub(add(span, extra[i]), pads))
        out.append(None if type(grown) is int and grown < 0 else grown)
    return tuple(out)


# -- pools


def pooled(node: Node, x: Shape | None) -> Shape | None:
    kernel = ints_attr(node, "kernel_shape")
    if kernel is None:
        fail(node, "kernel_shape is missing")
    if x is None:
        return (None,) * (len(kernel) + 2)
    if len(x) != len(kernel) + 2:
        fail(node, f"data has rank {len(x)}, expected {len(kernel) + 2} for a kernel of {len(kernel)} extents")
    return (*x[:2], *Window(node, kernel).extents(x[2:]))


@row("MaxPool", "AveragePool", "LpPool")
def pool(node: Node) -> Types:
    """MaxPool's second result are the positions of the maxima."""
    if node.op == "LpPool" and version(node) < 2:
        return None
    shape = pooled(node, shape_of(node, 0))
    return [TensorType(dtype_of(node, 0), shape), TensorType(DType.I64, shape)]


@row("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(node: Node) -> Types:
    x = tensor(node, 0)
    if x is None or x.shape is None:
        return [x]
    if len(x.shape) < 2:
        fail(node, f"data has rank {len(x.shape)}, expected at least 2")
    return [TensorType(x.dtype, (*x.shape[:2], *(1,) * (len(x.shape) - 2)))]


# -- extents by scale or size


@lru_cache(1 << 14)
def scaled(d: Dim, scale: float) -> Dim:
    """``floor(d * scale)`` as runtimes compute it, in float32; symbolic where the scale is whole or 1/2, 1/4, ...."""
    import numpy as np

    if d is None:
        return None
    if isinstance(d, SymDim):
        if scale >= 1 and scale == int(scale):
            return mul(d, int(scale))
        inverse = 1 / scale if scale > 0 else 0.0
        # Halves, quarters and so on are exact in float32; a third is not, and its floor may be off by one.
        exact = inverse == int(inverse) and int(inverse) & (int(inverse) - 1) == 0
        return floordiv(d, int(inverse)) if inverse >= 1 and exact else None
    return int(np.floor(np.float32(d) * np.float32(scale)))


@row("Resize", "Upsample")
def resize(node: Node) -> Types:
    """Extents from sizes or scales. Source: Resize-10, 11, 13, 18, 19; Upsample-1, 7, 9."""
    x = tensor(node, 0)
    if x is None:
        return [None]
    if x.shape is None:
        return [TensorType(x.dtype)]
    if node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None  # C++ knows the rounding
    rank = len(x.shape)
    old = node.op == "Upsample" or version(node) < 11
    places = axes_of(node, ints_attr(node, "axes") or tuple(range(rank)), rank) or []
    found = _resized(node, x.shape, places, 1 if old else 2)
    out: list[Dim] = list(x.shape)
    for i, place in enumerate(places):
        out[place] = found[i] if found is not None else None
    return [TensorType(x.dtype, tuple(out))]


def _resized(node: Node, dims: Shape, places: list[int], at: int) -> list[Dim] | None:
    sizes = shape_of(node, 3)
    if sizes is not None and sizes != (0,):
        known = elements(node, 3)
        if known is None or len(known) != len(places):
            return None
        return [None if type(d) is int and d < 0 else d for d in known]
    if node.op == "Resize" and len(node.inputs) > 3 and sizes is None and node.inputs[3] is not None:
        return None  # there are sizes, of unknown number
    scales = _scales(node, at)
    if scales is None or len(scales) != len(places):
        return None
    if node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return None
    return [scaled(dims[p], s) for p, s in zip(places, scales, strict=True)]


def _scales(node: Node, at: int) -> tuple[float, ...] | None:
    stated = node.attrs.get("scales")
    if stated is None and "height_scale" in node.attrs:  # Upsample-1
        stated = (1.0, 1.0, node.attrs["height_scale"], node.attrs["width_scale"])
    if isinstance(stated, tuple):
        numbers = tuple([float(s) for s in stated if isinstance(s, (int, float))])
        return numbers if len(numbers) == len(stated) else None
    value = node.inputs[at] if at < len(node.inputs) else None
    if value is None or value.data is None or value.data.count > 64:
        return None
    return tuple(value.data.numpy().reshape(-1).tolist())


@row("DepthToSpace", "SpaceToDepth")
def blocks(node: Node) -> Types:
    x = tensor(node, 0)
    block = int_attr(node, "blocksize", 0)
    if x is None or x.shape is None:
        return [TensorType(x.dtype, (None,) * 4) if x is not None else None]
    if len(x.shape) != 4 or block < 1:
        fail(node, f"data has rank {len(x.shape)} and blocksize is {block}, expected rank 4 and at least 1")
    n, c, h, w = x.shape
    if node.op == "DepthToSpace":
        return [TensorType(x.dtype, (n, _exact(node, c, block * block), mul(h, block), mul(w, block)))]
    return [TensorType(x.dtype, (n, mul(c, block * block), _exact(node, h, block), _exact(node, w, block)))]


def _exact(node: Node, d: Dim, by: int) -> Dim:
    if type(d) is int and d % by:
        fail(node, f"extent {d} found, expected a multiple of {by}")
    return floordiv(d, by)
