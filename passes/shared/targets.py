"""Constant targets for Reshape: which 0 and -1 say the same as a shape that is known only in part.

``0`` copies the operand's extent at that position; one ``-1`` takes what is left over. Both together
cannot say "no elements": with a copied extent of 0 the runtime cannot solve for -1.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np

from ...ir.dims import Dim, same_dim
from ...ir.graph import Node, Value
from ..rewrite.rewriter import Rewriter


def reshape_target(
    source: Sequence[Dim] | None, wanted: Sequence[Dim], *, nonempty: bool, copied: Container[int] = ()
) -> list[int] | None:
    """A target that gives ``wanted`` from an operand of shape ``source``; ``None`` where there is none.

    ``nonempty`` allows 0 and -1 together, which fails at run time where the copied extent is 0. ``copied`` are
    positions known to have the operand's extent, whatever it is.
    """
    target: list[int] = []
    for i, d in enumerate(wanted):
        if isinstance(d, int) and d > 0:
            target.append(d)
        elif i in copied:
            target.append(0)
        elif d == 0:
            return None  # it would copy
        elif source is not None and i < len(source) and same_dim(source[i], d):
            target.append(0)
        else:
            target.append(-1)
    if target.count(-1) == 0 and target.count(0) == 1:
        # What is left over is the one extent that is not written: this also holds for no elements.
        target[target.index(0)] = -1
    if target.count(-1) > 1 or (-1 in target and 0 in target and not nonempty):
        return None
    return target


def emit_reshape(r: Rewriter, x: Value, target: list[int], like: Node) -> Any:
    """A Reshape in the form of the model's opset (``like`` is a node of the same model)."""
    if like.version < 5:
        return r.Reshape(x, shape=tuple(target))
    return r.Reshape(x, np.array(target, np.int64))
