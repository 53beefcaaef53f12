"""Give an output head that shares its matrix with the embedding a matrix of its own.

    gather(W, ids) ... matmul(x, transpose(W)) = gather(W, ids) ... matmul(x, V),   V = transpose(W) stored

**Why** weight quantizers, packers and factorizations look for a product with a constant matrix that nothing else uses.
A tied head is a Transpose of the table, or a Gemm with it, and stays in full precision: in a small language model that
is the largest matrix. The price is the size of the table in the file, until it is quantized; so the pass is in no
pipeline by default.
**Needs** a constant matrix that a Gather looks rows up in and a product takes transposed.
**Leaves** products of other tensors, tables beyond ``max-bytes``, transposed tables that something else reads.
**Numbers** reassociates: the same products, which a kernel may sum in another order when it can pack a constant.
**Source** O. Press, L. Wolf, Using the Output Embedding to Improve Language Models, 2017 (what is undone here).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.constants import ArrayConstant
from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..rewrite.rule import Replacement
from ..shared.emit import again
from ..shared.operands import perm_of


@dataclass
class UntieEmbedding(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES
    max_bytes: int = 1 << 31
    """Largest table that is copied."""

    def rules(self) -> Iterable[NodeRule]:
        yield TransposedTable(self.max_bytes)
        yield GemmOfTable(self.max_bytes)


class TransposedTable(NodeRule):
    """The Transpose of the table, which products take."""

    roots = ("Transpose",)

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        table = _table(node.inputs[0], self.limit)
        if perm_of(node) != (1, 0):
            raise NoMatch(f"perm {perm_of(node)}, expected [1, 0]")
        users = list(node.output.users)
        if not users or any(u.domain or u.op != "MatMul" or u.inputs[1] is not node.output for u in users):
            raise NoMatch("the transposed table goes elsewhere than into products")
        return _transposed(r, table)


class GemmOfTable(NodeRule):
    """A product that transposes the table itself."""

    roots = ("Gemm",)

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        table = _table(node.inputs[1], self.limit)
        if not node.attr("transB", 0):
            raise NoMatch("the product does not transpose its matrix")
        operands: list[Any] = list(node.inputs)
        operands[1] = _transposed(r, table)
        return again(r, node, *operands, transB=0)


def _table(value: Value | None, limit: int) -> Value:
    """A constant matrix that rows are looked up in too. Raises :class:`NoMatch`."""
    data = value.data if value is not None else None
    if value is None or data is None or len(data.shape) != 2:
        raise NoMatch("no constant matrix")
    if not any(u.op == "Gather" and not u.domain and i == 0 and not u.attr("axis", 0) for u, i in value.uses):
        raise NoMatch("no Gather looks rows up in the matrix")
    if data.nbytes > limit:
        raise NoMatch(f"the table takes {data.nbytes} bytes, the limit is {limit}")
    return value


def _transposed(r: Rewriter, table: Value) -> Value:
    data = table.data
    assert data is not None
    return r.const(ArrayConstant(np.ascontiguousarray(table.numpy().T), data.dtype), name=f"{table.name}/head")
