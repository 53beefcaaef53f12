"""Views that only put in or take out axes of extent 1: which axis of the result is which of the operand."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.dims import Dim, same_dim
from ...ir.graph import Node
from ..rewrite.rule import NoMatch

VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Operators that move no element."""

Axes = list[int | None]
"""For each axis of a result the axis of the operand; ``None`` for an axis of extent 1 that nothing stands for."""


def unit_map(source: Sequence[Dim] | None, result: Sequence[Dim] | None) -> Axes:
    """The axes of ``result`` in ``source`` where both are the same but for axes of extent 1.

    Axes of extent 1 are never mapped. Raises :class:`NoMatch` where the others differ or are not known.
    """
    if source is None or result is None:
        raise NoMatch("a shape is not known")
    wide = [i for i, d in enumerate(source) if d != 1]
    out: Axes = []
    taken = 0
    for d in result:
        if d == 1:
            out.append(None)
            continue
        if taken == len(wide) or not same_dim(source[wide[taken]], d):
            raise NoMatch(f"{list(source)} and {list(result)} differ in more than axes of extent 1")
        out.append(wide[taken])
        taken += 1
    if taken != len(wide):
        raise NoMatch(f"{list(source)} and {list(result)} differ in more than axes of extent 1")
    return out


def view_map(node: Node) -> Axes:
    """:func:`unit_map` of a Reshape, Flatten, Squeeze or Unsqueeze."""
    x = node.inputs[0]
    return unit_map(x.shape if x is not None else None, node.output.shape)
