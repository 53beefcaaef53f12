"""Regions with one result, and running them a few rows at a time.

Source: J. Lin et al., MCUNetV2: memory-efficient patch-based inference for tiny deep learning, NeurIPS 2021; M. Alwani
et al., Fused-layer CNN accelerators, MICRO 2016 (halos and what they cost).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from ....ir.cost import value_bytes
from ....ir.graph import Graph, Node, Value
from ...rewrite.rewriter import Rewriter, origin_of
from ...rewrite.rule import NoMatch
from .rows import Rows, height, operand_rows, part_attributes, row_wise

_MOST_NODES = 60
"""Of a region."""


@dataclass(frozen=True)
class Region:
    """Nodes in their order, the last of which makes the only result that others read."""

    nodes: tuple[Node, ...]

    @property
    def result(self) -> Value:
        return self.nodes[-1].output

    @cached_property
    def operands(self) -> list[Value]:
        """What the region reads of others, constants left out."""
        own = {v for node in self.nodes for v in node.outputs}
        read = dict.fromkeys(v for node in self.nodes for v in node.inputs if v is not None and v.data is None)
        return [v for v in read if v not in own]

    @property
    def outer_bytes(self) -> int:
        """What lies outside of the parts at the most: the operands, or all parts beside their concatenation."""
        return max(sum(map(_bytes, self.operands)), 2 * _bytes(self.result))

    def estimate(self, parts: int) -> tuple[int, float]:
        """Bytes alive at the most, about (as in a chain), and how many times rows are made. Raises ``NoMatch``."""
        rows = height(self.result)
        middle = parts // 2
        needed = self.needed((middle * rows // parts, (middle + 1) * rows // parts))
        share = {v: (end - begin) / height(v) for v, (begin, end) in needed.items()}
        own = {node.output for node in self.nodes}
        inner = max(
            sum(_bytes(v) * share[v] for v in {*node.inputs, node.output} if v is not None and v in share)
            for node in self.nodes
        )
        work = sum(_bytes(v) * share[v] * parts for v in own) / max(sum(map(_bytes, own)), 1)
        around = sum(map(_bytes, self.operands)) + _bytes(self.result)
        return max(2 * _bytes(self.result), around + int(inner)), work

    def needed(self, rows: Rows) -> dict[Value, Rows]:
        """Rows of each value of the region that are needed for rows of the result. Raises ``NoMatch``."""
        found = {self.result: rows}
        for node in reversed(self.nodes):
            for i, value in enumerate(node.inputs):
                part = operand_rows(node, i, found[node.output])
                if value is not None and part is not None:
                    old = found.get(value, part)
                    found[value] = min(old[0], part[0]), max(old[1], part[1])
        return found


def regions_over(graph: Graph, step: int) -> Iterator[Region]:
    """Regions in which the node at index ``step`` lies, from each end that is a few nodes behind it."""
    nodes = [node for node in graph if not node.is_return]
    index = {node: i for i, node in enumerate(nodes)}
    for end in range(step, min(step + _MOST_NODES, len(nodes))):
        last = nodes[end]
        if not row_wise(last):
            continue
        taken = {last}
        for node in reversed(nodes[max(end - 2 * _MOST_NODES, 0) : end]):
            if not _belongs(node, taken):
                continue
            taken.add(node)
            if nodes[step] in taken:
                yield Region(tuple(sorted(taken, key=lambda n: index[n])))
            if len(taken) >= _MOST_NODES:
                break


def _belongs(node: Node, taken: set[Node]) -> bool:
    """Whether a node is row by row, and read by nodes of the region alone, and by rows alone."""
    if not row_wise(node) or not all(user in taken for user, _ in node.output.uses):
        return False
    try:
        return all(operand_rows(user, i, (0, height(user.output))) is not None for user, i in node.output.uses)
    except NoMatch:
        return False


def split(r: Rewriter, region: Region, parts: int) -> None:
    """Makes the region's result part by part, each from the rows that it needs. Raises ``NoMatch`` before any edit."""
    result, last = region.result, region.nodes[-1]
    rows = height(result)
    bounds = [i * rows // parts for i in range(parts + 1)]
    pieces = list(pairwise(bounds))
    if parts < 2 or parts > rows:
        raise NoMatch(f"{rows} rows are not {parts} parts")
    needs = [region.needed(piece) for piece in pieces]
    r.begin(last, origin_of(region.nodes))
    made = [_Part(r, region, needed).run() for needed in needs]
    axis = len(result.shape or ()) - 2
    r.replace(last, r.Concat(*made, axis=axis))


class _Part:
    """Emits one part of a region."""

    def __init__(self, r: Rewriter, region: Region, needed: dict[Value, Rows]) -> None:
        self.r, self.region, self.needed = r, region, needed
        self.made: dict[Value, Value] = {}
        self.cut: dict[tuple[Value, Rows], Value] = {}

    def run(self) -> Value:
        for node in self.region.nodes:
            rows = self.needed[node.output]
            operands = [self._operand(node, i, value, rows) for i, value in enumerate(node.inputs)]
            attrs: dict[str, Any] = part_attributes(node, rows)
            self.made[node.output] = self.r.op(node.op, *operands, **attrs)
        return self.made[self.region.result]

    def _operand(self, node: Node, i: int, value: Value | None, rows: Rows) -> Value | None:
        wanted = operand_rows(node, i, rows)
        if value is None or wanted is None:
            return value
        have = self.needed[value] if value in self.made else (0, height(value))
        source = self.made.get(value, value)
        if wanted == have:
            return source
        if (value, wanted) not in self.cut:
            begin, end = (np.array([n - have[0]]) for n in wanted)
            axis = np.array([len(value.shape or ()) - 2])
            self.cut[value, wanted] = self.r.Slice(source, begin, end, axis)
        return self.cut[value, wanted]


def _bytes(value: Value) -> int:
    found = value_bytes(value)
    return found if isinstance(found, int) else 0
