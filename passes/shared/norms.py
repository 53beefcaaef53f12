"""Normalization over trailing axes, spelled out: by mean and variance (layer norm) or by the mean square (RMS norm).

    d = x - mean(x)      (layer norm; d = x for RMS norm)
    n = d / sqrt(mean(d^2) + epsilon)
    y = n * gain + shift

:func:`find_norm` starts at the square root and finds ``n``; :func:`find_affine` goes on to ``y``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir.constants import ArrayConstant
from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..rewrite.matcher import scalar_value
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from .attributes import require_own_attributes
from .operands import int_list

ROOTS = ("Sqrt", "Pow")


@dataclass
class Norm:
    """What was found. ``nodes`` are private to the pattern, except for the last."""

    x: Value
    centered: bool
    axes: int
    """Number of trailing axes that are normalized over."""
    epsilon: float
    dtype: DType
    """Element type of the statistics (ONNX: the stash type)."""
    nodes: list[Node]
    root: Node
    """Computes the result found so far."""
    gain: Value | None = None
    shift: Value | None = None


def find_norm(anchor: Node) -> Norm:
    """The normalization whose square root is ``anchor``. Raises :class:`NoMatch`."""
    squares, epsilon, stat_nodes = _mean_square(anchor)
    d = _squared(squares)
    root, between = _quotient(anchor, d)
    numerator = _numerator(root, between[-1] if between else anchor)
    nodes = [anchor, *stat_nodes, squares, *between, root]
    axes = _trailing_axes(stat_nodes[-1])
    dtype = d.dtype
    if dtype not in (DType.F32, DType.F64, DType.F16, DType.BF16):
        raise NoMatch(f"normalization of {dtype!r}")
    assert dtype is not None
    difference = _difference(d, axes)
    if difference is None:
        if numerator is not d:
            raise NoMatch(f"%{numerator.name} is divided by the root mean square of %{d.name}")
        return Norm(d, False, axes, epsilon, dtype, nodes, root)
    x, own = difference
    other = _difference(numerator, axes)
    if other is None or other[0] is not x:
        raise NoMatch(f"%{numerator.name} is divided by the deviation of %{x.name}")
    nodes += [n for n in dict.fromkeys((*own, *other[1])) if n not in nodes]
    return Norm(x, True, axes, epsilon, dtype, nodes, root)


def _mean_square(anchor: Node) -> tuple[Node, float, list[Node]]:
    """The node that squares, epsilon, and the nodes between it and the square root (the ReduceMean last)."""
    if anchor.op == "Pow" and scalar_value(anchor.input(1), anchor) not in (0.5, -0.5):
        raise NoMatch("the power is no square root")
    total = _producer(anchor.input(0), "Add", "the radicand")
    for i in (0, 1):
        epsilon = scalar_value(total.inputs[i], total)
        if epsilon is not None:
            if not 0 < epsilon < 1:
                raise NoMatch(f"epsilon is {epsilon}")
            mean = _producer(total.inputs[1 - i], "ReduceMean", "the variance")
            return _producer(mean.input(0), "Mul|Pow", "the averaged value"), float(epsilon), [total, mean]
    raise NoMatch("no constant epsilon below the square root")


def _producer(value: Value | None, ops: str, what: str) -> Node:
    node = value.producer if value is not None else None
    if node is None or node.domain or node.op not in ops.split("|"):
        raise NoMatch(f"{what} is not computed by {ops}")
    return node


def _squared(node: Node) -> Value:
    a, b = node.inputs[0], node.inputs[1]
    if a is None or (a is not b if node.op == "Mul" else scalar_value(b, node) != 2):
        raise NoMatch(f"{node.op} does not square")
    return a


def _trailing_axes(mean: Node) -> int:
    """Number of trailing axes that a ReduceMean with keepdims averages over."""
    require_own_attributes(mean)
    if not mean.attr("keepdims", 1):
        raise NoMatch("ReduceMean drops the axes")
    axes = int_list(mean, "axes", 1)
    x = mean.input(0)
    if not axes:
        raise NoMatch("the axes of ReduceMean are all or unknown")
    if any(a >= 0 for a in axes):
        if x is None or x.rank is None:
            raise NoMatch("the rank of the normalized value is unknown")
        axes = [a - x.rank if a >= 0 else a for a in axes]
    if sorted(axes) != list(range(-len(axes), 0)):
        raise NoMatch(f"ReduceMean averages over axes {axes}, which are not the last ones")
    return len(axes)


def _difference(d: Value, axes: int) -> tuple[Value, list[Node]] | None:
    """``x`` and the nodes where ``d`` is ``x - mean(x)`` over the same axes, else ``None``."""
    sub = d.producer
    if sub is None or sub.op != "Sub" or sub.domain:
        return None
    x, mean = sub.inputs[0], sub.inputs[1]
    node = mean.producer if mean is not None else None
    if x is None or node is None or node.op != "ReduceMean" or node.input(0) is not x:
        return None
    try:
        same = _trailing_axes(node) == axes
    except NoMatch:
        same = False
    return (x, [sub, node]) if same else None


def _quotient(anchor: Node, d: Value) -> tuple[Node, list[Node]]:
    """The node that divides by the square root, and the Reciprocal (or division of one) in between."""
    user = anchor.output.sole_user
    if user is None:
        raise NoMatch("the square root has another user")
    inverse = anchor.op == "Pow" and scalar_value(anchor.input(1), anchor) == -0.5
    if not inverse and user.op == "Div" and user.inputs[1] is anchor.output:
        if scalar_value(user.inputs[0], user) != 1:
            return user, []
        inverse, between, node = True, [user], user
    elif not inverse and user.op == "Reciprocal":
        inverse, between, node = True, [user], user
    else:
        between, node = [], anchor
    if not inverse:
        raise NoMatch("nothing is divided by the square root")
    product = node.output.sole_user
    if product is None or product.op != "Mul" or product.domain:
        raise NoMatch("nothing is multiplied by the inverse of the square root")
    return product, between


def _numerator(root: Node, denominator: Node) -> Value:
    value = root.inputs[0] if root.inputs[0] is not denominator.output else root.inputs[1]
    if value is None:
        raise NoMatch("nothing is divided")
    return value


# -- what follows


def find_affine(norm: Norm, *, shift: bool) -> None:
    """Extends ``norm`` by a Cast back to the type that ``x`` was cast from, by the gain and (if asked) by the shift."""
    _through_cast(norm)
    for op in ("Mul", "Add") if shift else ("Mul",):
        user = norm.root.output.sole_user
        if user is None or user.op != op or user.domain or user.graph is not norm.root.graph:
            continue
        other = user.inputs[1] if user.inputs[0] is norm.root.output else user.inputs[0]
        if other is None or not _fits(other, norm):
            continue
        if op == "Mul":
            norm.gain = other
        else:
            norm.shift = other
        norm.nodes.append(user)
        norm.root = user


def _through_cast(norm: Norm) -> None:
    cast, back = norm.x.producer, norm.root.output.sole_user
    if cast is None or cast.op != "Cast" or cast.domain or back is None or back.op != "Cast" or back.domain:
        return
    source = cast.inputs[0]
    if source is None or norm.dtype is not DType.F32 or source.dtype not in (DType.F16, DType.BF16):
        return
    if back.output.dtype is source.dtype:
        norm.x = source
        norm.nodes.append(back)
        norm.root = back


def normalized_shape(norm: Norm) -> tuple[int, ...] | None:
    """Extents of the normalized axes where they are plain numbers."""
    shape = norm.x.shape
    last = shape[len(shape) - norm.axes :] if shape is not None else ()
    found = tuple(d for d in last if isinstance(d, int))
    return found if len(found) == norm.axes else None


def _fits(value: Value, norm: Norm) -> bool:
    """Whether ``value`` has the shape of the normalized axes (a constant may have further axes of extent one)."""
    wanted = normalized_shape(norm)
    shape = value.shape
    if wanted is None or shape is None or len(shape) < len(wanted) or value.dtype is not norm.root.output.dtype:
        return False
    if shape[len(shape) - len(wanted) :] != wanted:
        return False
    rest = shape[: len(shape) - len(wanted)]
    if not rest:
        return True
    rank = norm.x.rank
    return value.data is not None and all(d == 1 for d in rest) and rank is not None and len(shape) <= rank


def operand_of(r: Rewriter, value: Value | None, norm: Norm, fill: float | None) -> Value | None:
    """The gain or shift as an operand of exactly the normalized shape; ``fill`` everywhere where there is none.

    Raises :class:`NoMatch` where a constant is needed and the extents are unknown.
    """
    wanted = normalized_shape(norm)
    if value is None:
        if fill is None:
            return None
        if wanted is None:
            raise NoMatch("no gain, and the extents of the normalized axes are not known numbers")
        dtype = norm.x.dtype
        assert dtype is not None
        return r.const(np.full(wanted, fill), dtype)
    if value.data is not None and value.data.shape != wanted:
        assert wanted is not None
        return r.const(ArrayConstant(value.numpy().reshape(wanted), value.data.dtype), name=value.name)
    return value
