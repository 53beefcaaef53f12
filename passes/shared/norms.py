"""Normalization over trailing axes, spelled out: by mean and variance (layer norm) or by the mean square (RMS norm).

    d = x - mean(x)      (layer norm; d = x for RMS norm)
    n = d / sqrt(mean(d^2) + epsilon)
    y = n * gain + shift

:func:`find_norm` starts at the square root and finds ``n``; :func:`find_affine` goes on to ``y``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...ir.constants import ArrayConstant
from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..rewrite.matcher import close, scalar_value
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from .attributes import require_attribute, require_own_attributes
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
    squares, epsilon, stat_nodes, axes = _mean_square(anchor)
    d = _squared(squares)
    dtype = d.dtype
    if dtype not in (DType.F32, DType.F64, DType.F16, DType.BF16):
        raise NoMatch(f"normalization of {dtype!r}")
    assert dtype is not None
    require_attribute("epsilon", epsilon, dtype)
    statistics = [anchor, *stat_nodes, squares]
    difference = _difference(d, axes)
    source = Norm(d if difference is None else difference[0], difference is not None, axes, epsilon, dtype, [], anchor)
    inverse, between = _inverse(anchor)
    gained = _gained(inverse, source) if inverse is not None else None
    if gained is not None:
        return _around_gain(source, d, [*statistics, *between, *gained[0]], *gained)
    root, between = _quotient(anchor, inverse, between)
    numerator = _numerator(root, between[-1] if between else anchor)
    source.root, source.nodes = root, [*statistics, *between, root]
    _require_numerator(source, d, numerator)
    return source


def _require_numerator(norm: Norm, d: Value, numerator: Value) -> None:
    """Raises :class:`NoMatch` where something else is divided than what the statistics are of."""
    if not norm.centered:
        if numerator is not d:
            raise NoMatch(f"%{numerator.name} is divided by the root mean square of %{d.name}")
        return
    own, other = _difference(d, norm.axes), _difference(numerator, norm.axes)
    if own is None or other is None or other[0] is not norm.x:
        raise NoMatch(f"%{numerator.name} is divided by the deviation of %{norm.x.name}")
    norm.nodes += [n for n in dict.fromkeys((*own[1], *other[1])) if n not in norm.nodes]


def _mean_square(anchor: Node) -> tuple[Node, float, list[Node], int]:
    """The node that squares, epsilon, the nodes between it and the square root, and the number of trailing axes."""
    if anchor.op == "Pow" and scalar_value(anchor.input(1), anchor) not in (0.5, -0.5):
        raise NoMatch("the power is no square root")
    total = _producer(anchor.input(0), "Add", "the radicand")
    for i in (0, 1):
        epsilon = scalar_value(total.inputs[i], total)
        if epsilon is not None:
            if not 0 < epsilon < 1:
                raise NoMatch(f"epsilon is {epsilon}")
            averaged, axes, nodes = _mean(total.inputs[1 - i], "the variance")
            return _producer(averaged, "Mul|Pow", "the averaged value"), float(epsilon), [total, *nodes], axes
    raise NoMatch("no constant epsilon below the square root")


def _mean(value: Value | None, what: str) -> tuple[Value | None, int, list[Node]]:
    """What is averaged, over how many trailing axes, and the nodes: a ReduceMean, or a ReduceSum by their extent."""
    node = _producer(value, "ReduceMean|Mul|Div", what)
    if node.op == "ReduceMean":
        return node.input(0), _trailing_axes(node), [node]
    total = _producer(node.inputs[0], "ReduceSum", what)
    x, axes = total.input(0), _trailing_axes(total)
    shape = x.shape[len(x.shape) - axes :] if x is not None and x.shape is not None else ()
    extent = math.prod(d for d in shape if isinstance(d, int))
    count = scalar_value(node.inputs[1], node)
    if len(shape) != axes or not all(isinstance(d, int) for d in shape) or count is None:
        raise NoMatch("a sum is scaled, and the extents of the normalized axes are not known numbers")
    if not close(float(count), 1 / extent if node.op == "Mul" else float(extent), 4, node.output.dtype):
        raise NoMatch(f"a sum over {extent} elements is scaled by {count}")
    return x, axes, [node, total]


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
    """Number of trailing axes that a reduction with keepdims goes over."""
    require_own_attributes(mean)
    if not mean.attr("keepdims", 1):
        raise NoMatch(f"{mean.op} drops the axes")
    axes = int_list(mean, "axes", 1)
    x = mean.input(0)
    if not axes:
        raise NoMatch(f"the axes of {mean.op} are all or unknown")
    if any(a >= 0 for a in axes):
        if x is None or x.rank is None:
            raise NoMatch("the rank of the normalized value is unknown")
        axes = [a - x.rank if a >= 0 else a for a in axes]
    if sorted(axes) != list(range(-len(axes), 0)):
        raise NoMatch(f"{mean.op} goes over axes {axes}, which are not the last ones")
    return len(axes)


def _difference(d: Value, axes: int) -> tuple[Value, list[Node]] | None:
    """``x`` and the nodes where ``d`` is ``x - mean(x)`` over the same axes, else ``None``."""
    sub = d.producer
    if sub is None or sub.op != "Sub" or sub.domain:
        return None
    x = sub.inputs[0]
    try:
        averaged, over, nodes = _mean(sub.inputs[1], "the mean")
    except NoMatch:
        return None
    return (x, [sub, *nodes]) if x is not None and averaged is x and over == axes else None


def _inverse(anchor: Node) -> tuple[Node | None, list[Node]]:
    """The node that returns the inverse of the square root, if any, and those in between the two, itself included."""
    if anchor.op == "Pow" and scalar_value(anchor.input(1), anchor) == -0.5:
        return anchor, []
    user = anchor.output.sole_user
    if user is None or user.domain:
        return None, []
    if user.op == "Div" and user.inputs[1] is anchor.output and scalar_value(user.inputs[0], user) == 1:
        return user, [user]
    return (user, [user]) if user.op == "Reciprocal" else (None, [])


def _quotient(anchor: Node, inverse: Node | None, between: list[Node]) -> tuple[Node, list[Node]]:
    """The node that divides by the square root, or multiplies by its inverse."""
    user = anchor.output.sole_user
    if user is None:
        raise NoMatch("the square root has another user")
    if inverse is None:
        if user.op == "Div" and user.inputs[1] is anchor.output:
            return user, []
        raise NoMatch("nothing is divided by the square root")
    product = inverse.output.sole_user
    if product is None or product.op != "Mul" or product.domain:
        raise NoMatch("nothing is multiplied by the inverse of the square root")
    return product, between


# -- the gain taken in first, as TensorFlow's batch_normalization does


def _gained(inverse: Node, norm: Norm) -> tuple[list[Node], Value] | None:
    """The product of inverse and gain, and the gain."""
    product = inverse.output.sole_user
    if product is None or product.op != "Mul" or product.domain:
        return None
    other = product.inputs[1] if product.inputs[0] is inverse.output else product.inputs[0]
    if other is None or not _fits(other, norm) or other.data is None:
        return None
    return [product], other


def _around_gain(norm: Norm, d: Value, nodes: list[Node], products: list[Node], gain: Value) -> Norm:
    """``d f`` or ``x f + (shift - mean f)``, where ``f`` is the gain divided by the root."""
    factor = products[0].output
    users = list(dict.fromkeys(u for u, _ in factor.uses))
    if any(u.op != "Mul" or u.domain for u in users) or len(users) not in (1, 2):
        raise NoMatch(f"%{factor.name} is not multiplied by one or two values")
    norm.gain = gain
    norm.nodes = [*nodes, *users]
    if len(users) == 1:
        norm.root = users[0]
        _require_numerator(norm, d, _numerator(users[0], products[0]))
        return norm
    for straight, centre in (users, users[::-1]):
        rest, total = centre.output.sole_user, straight.output.sole_user
        if rest is None or total is None or rest.op != "Sub" or rest.domain or total.op != "Add" or total.domain:
            continue
        if rest.inputs[1] is not centre.output or rest.output.sole_user is not total:
            continue
        own = _difference(d, norm.axes)
        if own is None or _numerator(straight, products[0]) is not norm.x:
            raise NoMatch("the gain is multiplied by something else than the normalized value")
        if _numerator(centre, products[0]) is not own[1][0].inputs[1]:
            raise NoMatch("something else than the mean is subtracted")
        shift = rest.inputs[0]
        if shift is None or not _fits(shift, norm) or shift.data is None:
            raise NoMatch("the shift has not the shape of the normalized axes")
        norm.shift, norm.root = shift, total
        norm.nodes += [*own[1], rest, total]
        return norm
    raise NoMatch(f"%{factor.name} is not multiplied by a value and its mean")


def _numerator(root: Node, denominator: Node) -> Value:
    value = root.inputs[0] if root.inputs[0] is not denominator.output else root.inputs[1]
    if value is None:
        raise NoMatch("nothing is divided")
    return value


# -- what follows


def find_affine(norm: Norm, *, shift: bool) -> None:
    """Extends ``norm`` by a Cast back to the type that ``x`` was cast from, by the gain and (if asked) by the shift."""
    if norm.gain is None:
        _through_cast(norm)
    given = {"Mul": norm.gain, "Add": norm.shift}
    for op in ("Mul", "Add") if shift else ("Mul",):
        if given[op] is not None or (op == "Mul" and norm.shift is not None):
            continue
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
