"""Writing the factors of a product into the graph: as a pair, or in the compact form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ....ir.graph import Node, Value
from ...rewrite.rewriter import Rewriter, origin_of
from ...rewrite.rule import NoMatch
from ..emit import split
from .compact import Compact
from .products import Product

Array = np.ndarray[Any, Any]


@dataclass
class Store:
    """Constants of one factorization, made once for all products that share a weight."""

    made: dict[str, Value] = field(default_factory=dict[str, Value])

    def get(self, name: str, make: Callable[[], Value]) -> Value:
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]


def side_of(product: Product) -> str:
    """Which side of a compact form is better: the shorter one is copied; a Gemm keeps its residual fused.

    Raises ``NoMatch`` where neither can be written.
    """
    if product.residual is not None:
        return "input"
    if product.kind == "Conv" and not _keeps_positions(product):
        return "output"
    return "output" if product.n <= product.k else "input"


def _keeps_positions(product: Product) -> bool:
    """Whether a 1x1 convolution computes each position from that position."""
    attrs: Any = product.node.attrs
    moved = any(s != 1 for s in attrs.get("strides", ())) or any(attrs.get("pads", ()))
    return not moved and product.node.attr("auto_pad", "NOTSET") in ("NOTSET", "", "VALID")


def emit_pair(r: Rewriter, product: Product, a: Array, b: Array, shift: Array, store: Store) -> None:
    """Replaces the product by ``(x a) b``; ``shift`` is added to its bias."""
    r.begin(product.node, origin_of([product.node]))
    first = store.get("u", lambda: product.constant(r, a, "u"))
    second = store.get("v", lambda: product.constant(r, b, "v"))
    z = product.multiply(r, product.x, first, first=True)
    _finish(r, product, lambda bias: product.multiply(r, z, second, bias=bias, last=True), shift)


def emit_compact(r: Rewriter, product: Product, form: Compact, shift: Array, store: Store) -> None:
    """Replaces the product by its compact form; ``shift`` is added to its bias."""
    r.begin(product.node, origin_of([product.node]))
    a = store.get("a", lambda: product.constant(r, form.a, "a"))
    t = store.get("t", lambda: product.constant(r, form.t, "t")) if form.t.size else None
    if form.side == "input":
        z = _summed(r, product, form, t)
        _finish(r, product, lambda bias: product.multiply(r, z, a, bias=bias, last=True), shift)
        return
    if product.residual is not None:
        raise NoMatch("the product adds a residual, which the parts of its result cannot")
    _finish(r, product, lambda bias: _joined(r, product, form, a, t, bias), shift)


def _summed(r: Rewriter, product: Product, form: Compact, t: Value | None) -> Value:
    """``x[kept] + x[rest] t``."""
    x = product.x
    if t is None:
        return x
    if not (form.first or form.last):
        x = r.Gather(x, np.concatenate([form.kept, form.rest]).astype(np.int64), axis=product.axis)
    sizes = [len(form.kept), len(form.rest)]
    if form.last:
        rest, kept = split(r, x, sizes[::-1], product.axis)
    else:
        kept, rest = split(r, x, sizes, product.axis)
    return product.multiply(r, rest, t, add=kept)


def _joined(r: Rewriter, product: Product, form: Compact, a: Value, t: Value | None, bias: Array | None) -> Value:
    """``[z, z t]`` in the order of the outputs."""
    own = None if bias is None else bias[form.kept]
    z = product.multiply(r, product.x, a, bias=own, first=True)
    if t is None:
        return z
    other = None if bias is None or own is None else bias[form.rest] - own @ form.t
    rest = product.multiply(r, z, t, bias=other)
    parts: Sequence[Value] = [rest, z] if form.last else [z, rest]
    whole: Value = r.Concat(*parts, axis=product.axis)
    return whole if form.first or form.last else r.Gather(whole, form.order.astype(np.int64), axis=product.axis)


def _finish(r: Rewriter, product: Product, emit: Callable[[Array | None], Value], shift: Array) -> None:
    """Emits with the bias where the node has it, else corrects the Add behind."""
    _replace(r, product, emit(_inside(product, shift)), shift)


def _inside(product: Product, shift: Array) -> Array | None:
    """The bias that the node itself is to add."""
    if product.kind == "MatMul" or not product.takes_bias:
        return None
    bias = product.bias_vector() + shift
    return bias if product.bias is not None or bias.any() else None


def _replace(r: Rewriter, product: Product, value: Value, shift: Array) -> None:
    r.replace(product.node, value)
    add = product.add
    if add is None or not shift.any():
        return
    r.begin(add, origin_of([add]))
    i = next(i for i, v in enumerate(add.inputs) if v is product.bias)
    r.set_input(add, i, product.constant_bias(r, product.bias_vector() + shift))


def emit_beside(r: Rewriter, product: Product, whole: Array, a: Array, b: Array) -> list[Node]:
    """Replaces the product by ``x whole + (x a) b``, a residual added to the first; returns the nodes that multiply
    with these three."""
    r.begin(product.node, origin_of([product.node]))
    weight = product.constant(r, whole, "q")
    bias = _inside(product, np.zeros(product.n))
    main = product.multiply(r, product.x, weight, bias=bias, first=True, last=True)
    z = product.multiply(r, product.x, product.constant(r, a, "u"))
    second = product.constant(r, b, "v")
    r.replace(product.node, product.multiply(r, z, second, add=main))
    found = [main.producer, z.producer, next((user for user, _ in second.uses), None)]
    return [node for node in found if node is not None]


# -- parallel products


def emit_parallel_pairs(r: Rewriter, products: Sequence[Product], a: Array, b: Array, shift: Array) -> None:
    """Replaces products of one ``x`` by ``z = x a`` and parts of ``z b``; ``shift`` goes to their biases."""
    first = products[0]
    r.begin(first.node, origin_of([p.node for p in products]))
    z = first.multiply(r, first.x, first.constant(r, a, "u"), first=True)
    for product, cut in _cuts(products):
        r.begin(product.node, origin_of([product.node]))
        bias = _inside(product, shift[cut])
        y = product.multiply(r, z, product.constant(r, b[:, cut], "v"), bias=bias)
        _replace(r, product, y, shift[cut])


def emit_parallel_compact(r: Rewriter, products: Sequence[Product], form: Compact, shift: Array) -> None:
    """The same in the compact form of all outputs together."""
    first = products[0]
    inside = [_inside(p, shift[cut]) for p, cut in _cuts(products)]
    bias = None
    if any(b is not None for b in inside):
        bias = np.concatenate([np.zeros(p.n) if b is None else b for p, b in zip(products, inside, strict=True)])
    r.begin(first.node, origin_of([p.node for p in products]))
    a, t = first.constant(r, form.a, "a"), first.constant(r, form.t, "t")
    parts = split(r, _joined(r, first, form, a, t, bias), [p.n for p in products], first.axis)
    for (product, cut), part in zip(_cuts(products), parts, strict=True):
        _replace(r, product, part, shift[cut])


def _cuts(products: Sequence[Product]) -> list[tuple[Product, slice]]:
    """Where the outputs of each lie among those of all."""
    ends = np.cumsum([p.n for p in products])
    return [(p, slice(int(end) - p.n, int(end))) for p, end in zip(products, ends, strict=True)]
