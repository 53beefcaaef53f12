"""Normalization by moments: ``(x - m) / sqrt(max(0, mean(x^2) - m^2) + epsilon) * scale + bias`` over one axis."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...ir.dims import same_shape
from ...ir.graph import Node, Value
from ..rewrite.matcher import close, scalar_value
from ..rewrite.rule import NoMatch
from .attributes import require_attribute
from .operands import int_list, normalized
from .polynomial import Expansion, Polynomial, monomial

_LONGEST = 4


@dataclass
class Moments:
    """What is normalized, over which axis."""

    x: Value
    axis: int
    mean: Value
    """Mean without the axis, or with extent 1."""
    nodes: list[Node] = field(default_factory=list[Node])


def has_moments(root: Node) -> bool:
    """Whether ``root`` (Sqrt) is the root of such a variance."""
    try:
        variance(root)
    except NoMatch:
        return False
    return True


def _maker(v: Value | None, *ops: str) -> Node | None:
    node = v.producer if v is not None else None
    return node if node is not None and not node.domain and node.op in ops else None


def _through_views(v: Value | None) -> Value | None:
    """What ``v`` shows in another shape."""
    for _ in range(_LONGEST):
        node = _maker(v, "Reshape", "Unsqueeze", "Squeeze", "Expand", "Identity")
        if node is None:
            return v
        before = node.inputs[0]
        if node.op == "Expand" and (before is None or not same_shape(before.shape, node.output.shape)):
            return v
        v = before
    return v


def variance(root: Node) -> tuple[Moments, float]:
    """What is normalized, and epsilon."""
    total = _maker(root.inputs[0], "Add")
    if total is None:
        raise NoMatch("nothing is added below the square root")
    epsilons = [(i, scalar_value(v, total)) for i, v in enumerate(total.inputs)]
    found = next(((i, e) for i, e in epsilons if e is not None), None)
    if found is None or not 0 < found[1] < 1:
        raise NoMatch("no constant epsilon below the square root")
    require_attribute("epsilon", found[1], root.output.dtype)
    v = _through_views(total.inputs[1 - found[0]])
    clamp = _maker(v, "Max", "Relu", "Clip")
    if clamp is not None:
        v = _through_views(_clamped(clamp))
    difference = _maker(v, "Sub")
    if difference is None:
        raise NoMatch("the variance is not a difference of moments")
    squares, square = _through_views(difference.inputs[0]), _maker(_through_views(difference.inputs[1]), "Mul", "Pow")
    if square is None:
        raise NoMatch("no square of the mean is subtracted")
    mean = _through_views(_squared(square))
    x, axis = _mean_of(mean)
    inner, other_axis = _mean_of(squares)
    if axis != other_axis or _squared(_require(inner.producer, "the second moment is not a mean of squares")) is not x:
        raise NoMatch("the moments are of different values or over different axes")
    assert mean is not None
    norm = Moments(x, axis, mean, [n for n in (total, clamp, difference, square) if n is not None])
    for value in (mean, squares, *(n.output for n in norm.nodes)):
        _require_rows(value, norm)
    return norm, float(found[1])


def _require_rows(v: Value | None, norm: Moments) -> None:
    """Raises :class:`NoMatch` unless ``v`` holds one number for each row: no view along the way made it broadcast."""
    x = norm.x.shape
    rows = None if v is None or v.shape is None else [d for d in v.shape if d != 1]
    wanted = [d for i, d in enumerate(x or ()) if i != norm.axis and d != 1]
    if rows is None or not same_shape(tuple(rows), tuple(wanted)):
        raise NoMatch(f"%{v.name if v is not None else '?'} does not hold one number for each normalized row")


def require_aligned(v: Value, norm: Moments) -> None:
    """Raises :class:`NoMatch` unless ``v`` is broadcast along the normalized axis and along no other."""
    x = norm.x.shape or ()
    wanted = (*x[: norm.axis], 1, *x[norm.axis + 1 :])
    if v.shape is None or not same_shape((1,) * (len(x) - len(v.shape)) + v.shape, wanted):
        raise NoMatch(f"%{v.name} of type {v.type} does not stand along the normalized axis {norm.axis}")


def _require(node: Node | None, otherwise: str) -> Node:
    if node is None:
        raise NoMatch(otherwise)
    return node


def _clamped(node: Node) -> Value | None:
    if node.op == "Max" and len(node.inputs) == 2:
        for i in (0, 1):
            if scalar_value(node.inputs[i], node) == 0:
                return node.inputs[1 - i]
    if node.op == "Clip" and scalar_value(node.input(1), node) == 0 and node.input(2) is None:
        return node.inputs[0]
    if node.op == "Relu":
        return node.inputs[0]
    raise NoMatch(f"{node.op} below the square root does not clamp at zero")


def _squared(node: Node) -> Value | None:
    if node.op == "Mul" and node.inputs[0] is node.inputs[1]:
        return node.inputs[0]
    if node.op == "Pow" and scalar_value(node.inputs[1], node) == 2:
        return node.inputs[0]
    raise NoMatch(f"{node.op} does not square")


def _mean_of(v: Value | None) -> tuple[Value, int]:
    """The value and the axis that ``v`` is the mean over."""
    scaled = _maker(v, "Mul", "Div")
    factor = 1.0
    if scaled is not None:
        number = scalar_value(scaled.inputs[1], scaled)
        inner = scaled.inputs[0]
        if number is None and scaled.op == "Mul":
            number, inner = scalar_value(scaled.inputs[0], scaled), scaled.inputs[1]
        if not number:
            raise NoMatch("a moment is scaled by no constant number")
        factor = number if scaled.op == "Mul" else 1.0 / number
        v = _through_views(inner)
    node = _maker(v, "ReduceMean", "ReduceSum")
    x = node.inputs[0] if node is not None else None
    if node is None or x is None or x.shape is None:
        raise NoMatch("a moment is not a mean")
    axes = normalized(int_list(node, "axes", 1) or [], len(x.shape))
    extent = x.shape[axes[0]] if axes and len(axes) == 1 else None
    if not axes or not isinstance(extent, int):
        raise NoMatch("a moment is not over one axis of known extent")
    wanted = 1.0 / extent if node.op == "ReduceSum" else 1.0
    if not close(float(factor), wanted, 4, x.dtype):
        raise NoMatch(f"a sum of {extent} elements is scaled by {factor}")
    return x, axes[0]


def factor_of(root: Node) -> tuple[Value, Value | None]:
    """The inverse of the deviation, with the scale where that is multiplied first."""
    inverse = root.output.sole_user
    if inverse is None or inverse.domain or inverse.op not in ("Reciprocal", "Div"):
        raise NoMatch("the square root is not inverted alone")
    if inverse.op == "Div" and scalar_value(inverse.inputs[0], inverse) != 1:
        raise NoMatch("the square root divides something else than 1")
    user = inverse.output.sole_user
    if user is not None and user.op == "Mul" and not user.domain:
        other = user.inputs[1] if user.inputs[0] is inverse.output else user.inputs[0]
        if other is not None and other.data is not None:
            return user.output, other
    return inverse.output, None


def root_of(norm: Moments, factor: Value) -> tuple[Node, Value | None]:
    """The result and the bias: ``x factor - mean factor + bias``. Raises :class:`NoMatch`."""
    means = {u.output for u, _ in norm.mean.uses if u.op in ("Reshape", "Unsqueeze", "Expand")} | {norm.mean}
    means |= {u.output for m in list(means) for u, _ in m.uses if u.op == "Expand"}
    best: tuple[Node, Value | None] | None = None
    seen = [u for u, _ in factor.uses]
    for _ in range(_LONGEST):
        if not seen or len({*seen}) != 1:
            break
        user = seen[0]
        if not user.outputs:
            break
        found = Expansion(stop=(norm.x, factor, *means)).at(user)
        bias = _bias(found, norm, factor, means) if found is not None else None
        if bias is not None:
            best = (user, bias[0])
        seen = [u for u, _ in user.output.uses]
    if best is None:
        raise NoMatch("the inverse deviation does not multiply what the mean was subtracted from")
    if not same_shape(best[0].output.shape, norm.x.shape):
        raise NoMatch(f"the result is {best[0].output.type}, the normalized value {norm.x.type}")
    return best


def _bias(found: Polynomial, norm: Moments, factor: Value, means: set[Value]) -> tuple[Value | None] | None:
    left = dict(found)
    if left.pop(monomial(norm.x, factor), None) != 1.0:
        return None
    mean = next((m for m in means if monomial(m, factor) in left), None)
    if mean is not None:
        require_aligned(mean, norm)
    if mean is None or left.pop(monomial(mean, factor)) != -1.0:
        return None
    if not left:
        return (None,)
    ((atoms, coefficient),) = left.items() if len(left) == 1 else (((), 0.0),)
    if coefficient != 1.0 or len(atoms) != 1 or atoms[0][1] != 1 or atoms[0][0].data is None:
        return None
    return (atoms[0][0],)


def vector_along(v: Value | None, norm: Moments, extent: int) -> np.ndarray[tuple[int], np.dtype[np.float64]] | None:
    """A constant as a vector along the normalized axis."""
    if v is None:
        return None
    assert v.data is not None
    rank = len(norm.x.shape or ())
    shape = v.data.shape
    at = norm.axis - rank
    for i, d in enumerate(reversed(shape)):
        if d != 1 and (-1 - i != at or d != extent):
            raise NoMatch(f"%{v.name} of shape {list(shape)} differs along another axis than {norm.axis}")
    if len(shape) > rank:
        raise NoMatch(f"%{v.name} has rank {len(shape)}, the normalized value {rank}")
    return np.broadcast_to(v.numpy().astype(np.float64).reshape(-1), (extent,)).copy()
