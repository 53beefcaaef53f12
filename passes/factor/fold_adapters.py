"""fold-adapters: low-rank adapters (LoRA) beside a weight become part of it.

    x W + b + s (x A) B = x (W + s A B) + b

The sum in either order, ``s`` a constant factor (alpha / r) anywhere along the adapter, Identity and Dropout that is
switched off anywhere; convolutions whose adapter is a convolution of the same windows and a 1x1 one.

**Why**    three products for one, and two more reads of ``x``.
**Needs**  constant weights; an adapter and a base that read the same value and are used by the sum alone.
**Leaves** weights that others use too (the base then serves several adapters), nonlinear adapters, adapters that start
           from another value. With ``keep`` nothing is folded, and notes say where adapters are.
**Numbers** reassociates; computed in float64, rounded once.
**Source** Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..rewrite.rewriter import origin_of
from ..shared.affine import rounded
from ..shared.attributes import require_own_attributes
from ..shared.emit import again
from ..shared.factor.chains import Chain, bias_of, chain_at
from ..shared.linear import Linear, linear_at, linear_of

Array = np.ndarray[Any, Any]
_LONGEST = 8
"""Scales and identities in a row that are looked through."""


@dataclass
class FoldAdapters(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    keep: bool = False
    """Leaves adapters where they are."""

    def rules(self) -> Iterable[NodeRule]:
        yield AdapterBesideWeight(self.keep)


@dataclass(frozen=True)
class _Adapter:
    """``scale * ((x A) B)``."""

    chain: Chain
    x: Value
    scale: float


class AdapterBesideWeight(NodeRule):
    """The sum of a product and an adapter of its input."""

    roots = ("Add", "Sum")

    def __init__(self, keep: bool) -> None:
        self.keep = keep

    def promising(self, node: Node) -> bool:
        return len(node.inputs) == 2 and all(v is not None and v.producer is not None for v in node.inputs)

    def apply(self, r: Rewriter, node: Node) -> Value:
        if len(node.inputs) != 2 or node.version < 7:
            raise NoMatch(f"{node.op} of opset {node.version} with {len(node.inputs)} operands")
        base, adapter = _found(node)
        if self.keep:
            raise NoMatch(f"the adapter of %{base.weight.name} is kept, as asked for")
        weight = rounded(_weight(base) + _added(base, adapter), _dtype(base))
        bias = _bias(base, adapter)
        r.begin(node, origin_of([base.node, node]))
        w = r.const(weight, name=base.weight.name)
        if bias is None:
            product: Value = again(r, base.node, base.x, w, *base.node.inputs[2:])
            return product if base.add is None else again(r, base.add, product, base.bias)
        b = r.const(rounded(bias, _dtype(base)), name=base.bias.name if base.bias is not None else "")
        if base.node.op == "MatMul":
            return r.Add(r.MatMul(base.x, w), b)
        return again(r, base.node, base.x, w, b, **({"beta": None} if base.node.op == "Gemm" else {}))


def _found(node: Node) -> tuple[Linear, _Adapter]:
    """Base and adapter. Raises :class:`NoMatch`, for the order of operands that came nearer."""
    reasons: list[str] = []
    for i in (0, 1):
        one, other = node.inputs[i], node.inputs[1 - i]
        if one is None or other is None:
            continue
        try:
            adapter = _adapter(other)
        except NoMatch as declined:
            reasons.append(f"%{other.name} is no adapter: {declined.reason}")
            continue
        base = linear_at(one, "the base")
        _require_same(base, adapter, node)
        return base, adapter
    raise NoMatch("; ".join(reasons) or "two operands are wanted")


def _adapter(value: Value) -> _Adapter:
    """What computes the value. Raises :class:`NoMatch`."""
    value, behind = _through(value)
    node = value.producer
    if node is None or len(value.uses) != 1:
        raise NoMatch(f"%{value.name} is no result of a product for one use")
    second = linear_of(node)
    inner, between = _through(second.x)
    if between != 1.0 or inner is not second.x:
        chain = _loose_chain(second, inner)
    else:
        chain = chain_at(node)
    start, front = _through(chain.first.x, owned=False)
    if front != 1.0 and (chain.first.bias is not None or chain.second.bias is not None):
        raise NoMatch("the adapter's input is scaled in front of a bias")
    if between != 1.0 and chain.second.bias is not None:
        raise NoMatch("the adapter is scaled in front of its second bias")
    return _Adapter(chain, start, behind * between * front)


def _loose_chain(second: Linear, inner: Value) -> Chain:
    """The chain whose inner value was scaled. Raises :class:`NoMatch`."""
    node = inner.producer
    if node is None or len(inner.uses) != 1:
        raise NoMatch(f"%{inner.name} is no result of a product for one use")
    first = linear_of(node)
    chain = Chain(first, second)
    chain.require()
    return chain


def _through(value: Value, *, owned: bool = True) -> tuple[Value, float]:
    """What is behind identities and constant factors, and the product of the factors.

    ``owned``: what is looked through must have no other use.
    """
    scale = 1.0
    for _ in range(_LONGEST):
        node = value.producer
        if node is None or node.domain or (owned and len(value.uses) != 1):
            break
        found = _factor(node, value)
        if found is None:
            break
        value, factor = found
        scale *= factor
    return value, scale


def _factor(node: Node, value: Value) -> tuple[Value, float] | None:
    """Operand and factor of a node that only scales; ``None`` for any other."""
    x = node.inputs[0] if node.inputs else None
    if node.op == "Identity" and x is not None:
        return x, 1.0
    if node.op == "Dropout" and x is not None and value is node.outputs[0]:
        training = node.input(2)
        off = node.version >= 7 and (training is None or (training.data is not None and not training.numpy().any()))
        return (x, 1.0) if off and not any(o.uses for o in node.outputs[1:]) else None
    if node.op not in ("Mul", "Div") or node.version < 7:
        return None
    for i in (0, 1) if node.op == "Mul" else (1,):
        number, other = node.inputs[i], node.inputs[1 - i]
        if number is None or other is None or number.data is None or number.data.count != 1:
            continue
        if other.rank is None or len(number.data.shape) > other.rank:
            continue
        factor = float(number.numpy().reshape(()))
        if node.op == "Mul":
            return other, factor
        return (other, 1.0 / factor) if factor else None
    return None


def _require_same(base: Linear, adapter: _Adapter, node: Node) -> None:
    """Raises :class:`NoMatch` unless both do the same to the same value."""
    chain = adapter.chain
    require_own_attributes(base.node)
    if adapter.x is not base.x:
        raise NoMatch(f"the adapter starts from %{adapter.x.name}, the base from %{base.x.name}")
    if chain.is_conv != (base.node.op == "Conv") or base.node.op == "ConvTranspose" or base.groups != 1:
        raise NoMatch(f"the base is {base.node.op} in {base.groups} groups, the adapter ends in {chain.second.node.op}")
    if base.side == 0 or (base.node.op == "Gemm" and base.node.attr("transA")):
        raise NoMatch("the base is no product of rows with a matrix")
    if any(len(m.weight.uses) != 1 for m in (base, chain.first, chain.second)):
        raise NoMatch("base or adapter share a weight with another product")
    if len({_dtype(m) for m in (base, chain.first, chain.second)}) != 1:
        raise NoMatch("base and adapter have different types")
    if chain.second.bias is not None:
        bias_of(chain.second)
    shape = _added_shape(base, chain)
    assert base.weight.data is not None
    if shape != base.weight.data.shape:
        raise NoMatch(f"the adapter makes {list(shape)}, the base has {list(base.weight.data.shape)}")
    if chain.is_conv and not _same_windows(base.node, chain):
        raise NoMatch("the adapter's windows are not the base's")


def _same_windows(node: Node, chain: Chain) -> bool:
    attrs = chain.attrs()
    names = ("strides", "pads", "dilations", "auto_pad")
    plain: dict[str, Any] = {"pads": 0, "strides": 1, "dilations": 1, "auto_pad": "NOTSET"}

    def given(found: dict[str, Any], name: str) -> Any:
        value = found.get(name)
        default = plain[name]
        if value is None or (not isinstance(value, str) and all(v == default for v in value)):
            return default
        return value

    return all(given(dict(node.attrs), name) == given(attrs, name) for name in names)


def _dtype(linear: Linear) -> Any:
    return linear.weight.dtype


def _weight(base: Linear) -> Array:
    assert base.weight.data is not None
    return base.weight.data.numpy().astype(np.float64)


def _added(base: Linear, adapter: _Adapter) -> Array:
    """What the adapter adds to the stored weight."""
    made = adapter.scale * adapter.chain.weight()
    if base.node.op != "Gemm":
        return made
    alpha = float(base.node.attr("alpha"))
    if not alpha:
        raise NoMatch("alpha of the base is 0")
    return (made.T if base.node.attr("transB") else made) / alpha


def _added_shape(base: Linear, chain: Chain) -> tuple[int, ...]:
    shape = chain.weight_shape()
    return shape[::-1] if base.node.op == "Gemm" and base.node.attr("transB") else shape


def _bias(base: Linear, adapter: _Adapter) -> Array | None:
    """The bias of both; ``None`` where the base's stays as it is."""
    moved = adapter.chain.bias()
    if moved is None:
        return None
    if base.bias is None:
        return adapter.scale * moved
    return adapter.scale * moved + bias_of(base)
