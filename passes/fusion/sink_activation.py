"""Compute an activation behind the maximum instead of in front of it.

    max_i f(x_i) = f(max_i x_i)                          f increasing
    max_i f(x_i) = max(f(max_i x_i), f(min_i x_i))       f decreasing, then increasing

The maximum of a function that falls and then rises (Gelu, SiLU, HardSwish, Mish, Abs) is taken at an end of the
interval. The addition of a constant per channel, and the product with a positive one, are increasing.

**Why** f runs once per window instead of once per element. With a global maximum behind Gelu that is 1/500 of the work.
**Needs** MaxPool with a stride, GlobalMaxPool or ReduceMax; for the second line one of the latter two; no other user.
**Leaves** activations that the runtime computes inside the convolution in front of them for nothing; MaxPool that
returns indices (ties would move) or whose windows do not lie apart; constants that differ along the pooled axes,
or that would meet other axes where ReduceMax takes axes out.
**Numbers** reassociates: f as computed may fail to be increasing in its last digit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from ...ir.constants import Constant
from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..rewrite.rewriter import origin_of
from ..shared.emit import CONTRIB, again, reduce_to_one
from ..shared.operands import int_list, normalized

_INCREASING = frozenset("Relu Sigmoid Tanh Softplus Softsign Erf Atan Elu Selu Celu Floor Ceil Round Exp Clip".split())
"""With the attributes' defaults; those with slopes are looked at."""
_FALL_AND_RISE = frozenset(
    [("", op) for op in ("Gelu", "HardSwish", "Mish", "Abs")] + [(CONTRIB, op) for op in ("Gelu", "FastGelu")]
)
_FREE_BEHIND_CONVOLUTION = frozenset("Relu Sigmoid Tanh Clip LeakyRelu HardSigmoid HardSwish".split())


@dataclass
class SinkActivation(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule]:
        yield BehindMaximum()


class BehindMaximum(NodeRule):
    """One function in front of a maximum."""

    roots = ("MaxPool", "GlobalMaxPool", "ReduceMax")

    def apply(self, r: Rewriter, node: Node) -> Value:
        require_distinct_windows(node)
        source = node.inputs[0]
        chain: list[Node] = []
        while source is not None and (f := _function(node, source)) is not None:
            chain.append(f)
            source = f.inputs[_operand(f)]
        if source is None or not chain:
            raise NoMatch(_refusal(node))
        folds = [f for f in chain if _falls(f)]
        r.begin(node, origin_of([*reversed(chain), node]))
        high = _after(r, chain, again(r, node, source, *node.inputs[1:]))
        if not folds:
            return high
        return r.Max(high, _after(r, chain, self._minimum(r, node, source)))

    def _minimum(self, r: Rewriter, node: Node, x: Value) -> Any:
        if node.op == "GlobalMaxPool":
            return reduce_to_one(r, "ReduceMin", x, _pooled_axes(node))
        return r.op("ReduceMin", x, *node.inputs[1:], **cast("dict[str, Any]", node.attrs))


def _after(r: Rewriter, chain: list[Node], x: Value) -> Any:
    """The functions of ``chain`` (outermost first) applied to ``x``."""
    for f in reversed(chain):
        at = _operand(f)
        x = again(r, f, *(x if k == at else v for k, v in enumerate(f.inputs)))
    return x


def require_distinct_windows(node: Node) -> None:
    """Raises :class:`NoMatch` for a MaxPool that would not make its operand smaller, or that tells where maxima are."""
    if node.op != "MaxPool":
        return
    if len(node.outputs) > 1 and node.outputs[1].uses:
        raise NoMatch("the indices of the maxima are used")
    strides = node.attrs.get("strides")
    if not isinstance(strides, tuple) or all(s == 1 for s in strides):
        raise NoMatch("the windows have stride 1: nothing would become smaller")


def _function(pool: Node, source: Value) -> Node | None:
    """The node that computes ``source`` where it may be moved behind ``pool``."""
    return source.producer if _reason(pool, source) is None else None


def _refusal(pool: Node) -> str:
    source = pool.inputs[0]
    return "the operand is absent" if source is None else _reason(pool, source) or "no activation in front"


def _reason(pool: Node, source: Value) -> str | None:
    """Why what computes ``source`` stays where it is; ``None`` where it may move."""
    f = source.producer
    if f is None or f.graph is not pool.graph or len(f.outputs) != 1 or _operand(f) < 0:
        return "no activation in front"
    if len(source.uses) != 1:
        return f"%{source.name} has another user"
    x = f.inputs[_operand(f)]
    if x is None or x.rank is None or x.rank != source.rank:
        return f"the rank of the operand of {f.op} is unknown, or smaller than the result's"
    if f.op in _FREE_BEHIND_CONVOLUTION and x.producer is not None and x.producer.op in ("Conv", "Gemm"):
        return f"the runtime computes {f.op} inside {x.producer.op}"
    if _falls(f):
        return None if pool.op != "MaxPool" else f"{f.op} falls and rises, which needs the minimum of every window too"
    try:
        rises = _is_increasing(f, x, pool)
    except NoMatch as error:
        return error.reason
    return None if rises else f"{f.op} is not known to rise, or to fall and then rise"


def _falls(f: Node) -> bool:
    return (f.domain, f.op) in _FALL_AND_RISE and all(v is None for v in f.inputs[1:])


def _operand(f: Node) -> int:
    """Which operand is not constant; -1 where there is none."""
    return next((k for k, v in enumerate(f.inputs[:2]) if v is not None and v.data is None), -1)


def _pooled_axes(node: Node) -> list[int]:
    rank = node.inputs[0].rank if node.inputs[0] is not None else None
    if rank is None:
        raise NoMatch("the rank of the operand is unknown")
    if node.op != "ReduceMax":
        return list(range(2, rank))
    axes = normalized(int_list(node, "axes", 1) or [], rank)
    if not axes:
        raise NoMatch("the axes of ReduceMax are not known, or are all")
    return axes


def _is_increasing(f: Node, x: Value, pool: Node) -> bool:
    """Whether ``f`` rises with its operand (does not fall), everywhere in a window of ``pool`` the same way."""
    axes = _pooled_axes(pool)
    if f.domain:
        return False
    if f.op in _INCREASING:
        if f.op == "Clip":
            return all(v is None or v.data is not None for v in f.inputs[1:])
        return float(f.attr("alpha", 1.0)) >= 0 and float(f.attr("gamma", 1.0)) >= 0
    if f.op == "LeakyRelu":
        return float(f.attr("alpha", 0.01)) >= 0
    if f.op == "HardSigmoid":
        return float(f.attr("alpha", 0.2)) >= 0
    if f.op not in ("Add", "Sub", "Mul", "Div") or len(f.inputs) != 2 or f.version < 7:
        return False
    at = _operand(f)
    other = f.inputs[1 - at]
    if other is None or other.data is None:
        return False
    _same_along(other.data, axes, x.rank or 0)
    if pool.op == "ReduceMax" and not pool.attr("keepdims", 1):
        _same_without(other.data, axes, x.rank or 0)
    if f.op in ("Add", "Sub"):
        return f.op == "Add" or at == 0
    if f.op == "Div" and at == 1:
        return False
    return bool((np.asarray(other.numpy(), np.float64) > 0).all())


def _same_along(data: Constant, axes: list[int], rank: int) -> None:
    """Raises :class:`NoMatch` where a constant operand differs along a pooled axis, or widens the result."""
    shape = data.shape
    if len(shape) > rank:
        raise NoMatch(f"a constant of rank {len(shape)} widens an operand of rank {rank}")
    for axis in axes:
        k = axis - rank + len(shape)
        if k >= 0 and shape[k] != 1:
            raise NoMatch(f"the constant differs along pooled axis {axis}")


def _same_without(data: Constant, axes: list[int], rank: int) -> None:
    """Raises :class:`NoMatch` where a constant operand would meet other axes once the pooled ones are gone."""
    shape = data.shape
    ahead = len(shape) <= rank - 1 - max(axes)
    if not ahead and (data.count != 1 or len(shape) > rank - len(axes)):
        raise NoMatch(f"the axes of the constant move where axes {axes} go away")
