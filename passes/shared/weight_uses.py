"""What a constant weight is used for, and which way its rows run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np

from ...ir.constants import Constant
from ...ir.graph import Graph, Node, Value
from ..rewrite.rule import NoMatch
from .operands import perm_of
from .quant.weight_only import Matrix


class Role(Enum):
    """What a node does with a weight."""

    PRODUCT = "product"
    """MatMul or Gemm with it as second operand."""
    LOOKUP = "lookup"
    """Gather of rows."""
    KERNEL = "kernel"
    """Conv, ConvTranspose, and the recurrent LSTM, GRU, RNN."""


@dataclass(frozen=True)
class Use:
    """One node that takes the weight."""

    node: Node
    role: Role
    axis: int
    """Axis of the weight that counts outputs: rows of the quantized matrix."""
    through: Node | None = None
    """A Transpose between the weight and the node."""

    @property
    def data(self) -> Value | None:
        """What a product multiplies the weight with."""
        return self.node.inputs[0] if self.role is Role.PRODUCT else None


def uses_of(value: Value) -> list[Use]:
    """All uses of a constant. Raises ``NoMatch`` where one is of another kind, or they want it cut differently."""
    shape = value.data.shape if value.data is not None else ()
    if len(shape) < 2:
        raise NoMatch(f"has rank {len(shape)}, weights have 2 or more")
    found = [use for user, i in value.uses for use in _uses(user, i, len(shape))]
    if not found:
        raise NoMatch("is used by nothing")
    axes = sorted({use.axis for use in found})
    if len(axes) > 1:
        raise NoMatch(f"counts outputs along axes {axes} in different uses")
    return found


def _uses(user: Node, i: int, rank: int) -> Iterator[Use]:
    if not user.domain and user.op == "Transpose" and rank == 2 and perm_of(user) == (1, 0):
        for last, j in user.output.uses:
            if last.domain or last.op != "MatMul" or j != 1:
                raise NoMatch(f"goes transposed into {_name(last)}")
            yield Use(last, Role.PRODUCT, 0, user)
        return
    yield Use(user, *_role(user, i, rank))


def _role(user: Node, i: int, rank: int) -> tuple[Role, int]:
    if not user.domain:
        if user.op == "MatMul" and i == 1 and rank == 2:
            return Role.PRODUCT, 1
        if user.op == "Gemm" and i == 1:
            return Role.PRODUCT, 0 if user.attr("transB", 0) else 1
        if user.op == "Gather" and i == 0 and rank == 2 and user.attr("axis", 0) in (0, -2):
            return Role.LOOKUP, 0
        if user.op == "Conv" and i == 1 and rank > 2:
            return Role.KERNEL, 0
        if user.op == "ConvTranspose" and i == 1 and rank > 2 and user.attr("group", 1) == 1:
            return Role.KERNEL, 1
        if user.op in ("LSTM", "GRU", "RNN") and i in (1, 2) and rank == 3:
            return Role.KERNEL, 1
    raise NoMatch(f"is operand {i} of {_name(user)}, rank {rank}")


def _name(node: Node) -> str:
    return f"{node.domain}::{node.op}" if node.domain else node.op


def matrix_of(data: Constant, axis: int) -> Matrix:
    """The weight as a matrix whose rows are the indices of ``axis``; rows are read only when asked for."""
    n, k = data.shape[axis], data.count // max(1, data.shape[axis])

    def rows(start: int, stop: int) -> np.ndarray:
        if axis == 0:
            part = data.rows(start, stop)
        else:
            part = np.moveaxis(data.numpy()[(slice(None),) * axis + (slice(start, stop),)], axis, 0)
        return np.ascontiguousarray(part, np.float32).reshape(stop - start, k)

    return Matrix(n, k, rows)


def weights_of(graph: Graph) -> Iterator[tuple[Node, Value]]:
    """The graph's constants, each with the first of the graph's nodes that needs it, bodies included."""
    seen: set[Value] = set()
    for node in graph:
        for value in _operands(node):
            if value.data is None or value.graph is not graph or value in seen:
                continue
            seen.add(value)
            yield node, value


def _operands(node: Node) -> Iterator[Value]:
    yield from (v for v in node.inputs if v is not None)
    for body in node.subgraphs if node.attrs else ():
        for inner in body.all_nodes():
            yield from (v for v in inner.inputs if v is not None)
