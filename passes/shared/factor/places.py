"""Weights of products, each with everything that reads it: what is factorized together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ....ir.constants import SplatConstant
from ....ir.graph import Model, Node, Value
from ...rewrite.rewriter import Rewriter
from ...rewrite.rule import NoMatch
from .products import OPS, OPSET, Product, product_of, readers, require_no_factor


@dataclass(frozen=True)
class Place:
    """A weight with all products that read it."""

    weight: Value
    products: list[Product]
    named: bool = True
    """Whether no other node has the name of the product's."""

    @property
    def first(self) -> Product:
        return self.products[0]

    @property
    def nodes(self) -> list[Node]:
        return [p.node for p in self.products]

    @property
    def takes_bias(self) -> bool:
        return all(p.takes_bias for p in self.products)

    @property
    def subject(self) -> Node | Value:
        """By what a unit is named: the node where its name is the only one, else the weight."""
        node = self.first.node
        return node if len(self.products) == 1 and self.named else self.weight


def places(model: Model, r: Rewriter, min_parameters: int, *, told: bool = True) -> Iterator[Place]:
    """All of the model; notes say why other weights of products stay, where that is to be ``told``."""
    opset = model.opsets.get("", 0)
    told = told or r.ctx.trace
    if opset < OPSET and told:
        r.ctx.note(f"opset {opset} has no negative axes, raise-opset{{to=13}} brings them")
    if opset < OPSET:
        return
    names = Counter(node.name for node in model.all_nodes())
    for weight in dict.fromkeys(weight for _, weight in readers(model, OPS)):
        data = weight.data
        if data is None or len(data.shape) < 2:
            continue
        if not r.ctx.trace and (data.count < min_parameters or math.prod(data.shape[2:]) > 1):
            continue  # too many to be told of
        try:
            found = place_of(weight, min_parameters)
            name = found.first.node.name
            yield replace(found, named=bool(name) and names[name] == 1)
        except NoMatch as declined:
            if told:
                r.ctx.note(f"%{weight.name} stays whole: {declined.reason}")


def place_of(weight: Value, min_parameters: int) -> Place:
    """Raises ``NoMatch`` where the weight must stay whole."""
    data = weight.data
    assert data is not None
    if data.count < min_parameters:
        raise NoMatch(f"it has {data.count} parameters, fewer than {min_parameters}")
    if isinstance(data, SplatConstant):
        raise NoMatch("it is a splat, which takes no room")
    products: list[Product] = []
    for user, i in weight.uses:
        if user.op not in OPS or user.domain or not (i == 1 or (i == 0 and user.op == "MatMul")):
            raise NoMatch(f"it is operand {i} of {user.op} too, which needs it whole")
        products.append(product_of(user))
    for product in products:
        require_no_factor(product.node)
    first = products[0]
    if any((p.kind, p.transposed) != (first.kind, first.transposed) for p in products):
        raise NoMatch(f"{' and '.join(sorted({p.kind for p in products}))} read it in different ways")
    if any(p.node.attr("alpha") != first.node.attr("alpha") for p in products if p.kind == "Gemm"):
        raise NoMatch("its readers scale it by different alpha")
    return Place(weight, products)
