"""Type rules of products: MatMul and its kin, Gemm, Einsum, recurrent layers."""

from __future__ import annotations

from ..dims import Dim, Shape, add, floordiv, sub
from ..dtypes import DType
from ..graph import Node
from ..types import TensorType
from .rules import (
    Types,
    broadcast,
    broadcast_dim,
    common_dtype,
    dtype_of,
    elements,
    equal_dim,
    fail,
    row,
    shape_of,
    tensor,
)


def multiplied(node: Node, a: Shape | None, b: Shape | None) -> Shape | None:
    """The shape of ``numpy.matmul``; fails where the inner extents differ or an operand is a scalar."""
    if a is None or b is None:
        return None
    if not a or not b:
        fail(node, f"operands have ranks {len(a)} and {len(b)}, expected at least 1")
    inner = b[max(len(b) - 2, 0)]
    if a[-1] != inner:
        equal_dim(node, a[-1], inner, "inner extents of the product")
    lead = broadcast(node, a[:-2], b[:-2])
    assert lead is not None
    return lead + (a[-2:-1] if len(a) > 1 else ()) + (b[-1:] if len(b) > 1 else ())


@row("MatMul")
def matmul(node: Node) -> Types:
    return [TensorType(common_dtype(node, 0, 1), multiplied(node, shape_of(node, 0), shape_of(node, 1)))]


@row("MatMulInteger")
def matmul_integer(node: Node) -> Types:
    return [TensorType(DType.I32, multiplied(node, shape_of(node, 0), shape_of(node, 1)))]


@row("QLinearMatMul")
def qlinear_matmul(node: Node) -> Types:
    """Operands a, scale, zero point, b, scale, zero point, y scale, y zero point."""
    return [TensorType(dtype_of(node, 7), multiplied(node, shape_of(node, 0), shape_of(node, 3)))]


@row("Gemm")
def gemm(node: Node) -> Types:
    dtype = common_dtype(node, 0, 1)
    a, b = shape_of(node, 0), shape_of(node, 1)
    for shape in (a, b):
        if shape is not None and len(shape) != 2:
            fail(node, f"an operand has rank {len(shape)}, expected 2")
    if a is not None and node.attrs.get("transA", 0):
        a = a[::-1]
    if b is not None and node.attrs.get("transB", 0):
        b = b[::-1]
    if a is not None and b is not None:
        equal_dim(node, a[1], b[0], "inner extents of the product")
    return [TensorType(dtype, (a[0] if a is not None else None, b[1] if b is not None else None))]


@row("Einsum")
def einsum(node: Node) -> Types:
    """One result extent a letter; letters of several operands broadcast, an ellipsis stands for leading axes."""
    dtype = common_dtype(node, *range(len(node.inputs)))
    equation = str(node.attrs["equation"]).replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(node.inputs):
        fail(node, f"equation {equation!r} has {len(terms)} operands, found {len(node.inputs)}")
    extents: dict[str, Dim] = {}
    rest: Shape | None = ()
    for i, term in enumerate(terms):
        shape = shape_of(node, i)
        head, dots, tail = term.partition("...")
        if shape is None:
            rest = None if dots else rest
            extents.update((x, extents.get(x)) for x in head + tail)
            continue
        between = len(shape) - len(head) - len(tail)
        if between < 0 or (between and not dots):
            fail(node, f"operand {i} has rank {len(shape)}, expected that of {term!r} in {equation!r}")
        if dots:
            rest = broadcast(node, rest, shape[len(head) : len(head) + between])
        for x, d in zip(head + tail, shape[: len(head)] + shape[len(head) + between :], strict=True):
            extents[x] = broadcast_dim(node, extents[x], d) if x in extents else d
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        right = ("..." if "..." in left else "") + "".join(sorted(x for x in set(letters) if letters.count(x) == 1))
    head, dots, tail = right.partition("...")
    if dots and rest is None:
        return [TensorType(dtype)]
    middle = rest if dots and rest is not None else ()
    return [TensorType(dtype, (*(extents[x] for x in head), *middle, *(extents[x] for x in tail)))]


@row("LSTM", "GRU", "RNN")
def recurrent(node: Node) -> Types:
    """Data ``[steps, batch, in]`` (layout 1: batch first), results all steps, last hidden (and cell) state."""
    x = tensor(node, 0)
    dtype = x.dtype if x is not None else dtype_of(node, 1)
    hidden = node.attrs.get("hidden_size")
    recurrence = shape_of(node, 2)
    if not isinstance(hidden, int):
        hidden = recurrence[2] if recurrence is not None and len(recurrence) == 3 else None
    directions = 2 if node.attrs.get("direction", "forward") == "bidirectional" else 1
    steps, batch = None, None
    if x is not None and x.shape is not None:
        if len(x.shape) != 3:
            fail(node, f"data has rank {len(x.shape)}, expected 3")
        steps, batch = x.shape[:2]
    if node.attrs.get("layout", 0):
        steps, batch = batch, steps
        all_steps: Shape = (batch, steps, directions, hidden)
        last: Shape = (batch, directions, hidden)
    else:
        all_steps, last = (steps, directions, batch, hidden), (directions, batch, hidden)
    state = TensorType(dtype, last)
    return [TensorType(dtype, all_steps), state, state]


@row("Det")
def determinant(node: Node) -> Types:
    shape = shape_of(node, 0)
    return [TensorType(dtype_of(node, 0), None if shape is None else shape[:-2])]


@row("STFT")
def stft(node: Node) -> Types:
    """Signal ``[B, L, 1 or 2]``, result ``[B, frames, bins, 2]``, half the bins by default."""
    signal, window = shape_of(node, 0), shape_of(node, 2)
    step, size = elements(node, 1), elements(node, 3)
    frame: Dim = window[0] if window else size[0] if size is not None and len(size) == 1 else None
    bins = add(floordiv(frame, 2), 1) if node.attrs.get("onesided", 1) else frame
    if signal is None:
        return [TensorType(dtype_of(node, 0), (None, None, bins, 2))]
    frames = None
    if step is not None and len(step) == 1:
        frames = add(floordiv(sub(signal[1], frame), step[0]), 1)
    return [TensorType(dtype_of(node, 0), (signal[0], frames, bins, 2))]
