"""Whether one product takes less time than two in a row, though it multiplies more: by the clock of this machine.

Narrow products run at a fraction of a processor's speed, and each operator costs a start; where that is more than what
the smaller factors save, they do not pay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....ir.builder import Builder
from ....ir.dtypes import DType
from ....ir.graph import Model, Node
from ...core import Context
from ...rewrite.rule import NoMatch
from ..layout.sizes import sizes_of
from .chains import Chain

Array = np.ndarray[Any, Any]
MARGIN = 0.97
"""Share of the time of both below which one is faster beyond doubt."""


def require_faster(chain: Chain, ctx: Context) -> None:
    """Raises ``NoMatch`` where one product was not measured to be faster, or cannot be measured."""
    reason = f"the product has {chain.count} parameters, the two have {chain.parameters}"
    graph = chain.second.node.graph
    if ctx.race is None or graph is None:
        raise NoMatch(f"{reason}, and their times are not measured")
    sizes = sizes_of(graph, ctx)
    extents = [sizes.told(d) for d in chain.x.shape or ()]
    known = [extent for extent in extents if extent]
    if not extents or len(known) < len(extents) or chain.x.dtype is not DType.F32:
        raise NoMatch(f"{reason}, and the extents of %{chain.x.name} are not known")
    first, second = chain.factors()
    pair = _model(known, [(chain.first.node, first), (chain.second.node, second)])
    one = _model(known, [(chain.second.node, chain.weight())], chain.attrs() if chain.is_conv else {})
    found = ctx.race([pair, one])
    if found is None:
        raise NoMatch(f"{reason}, and their times cannot be measured")
    if found[1] > MARGIN * found[0]:
        raise NoMatch(f"{reason}, and it takes {found[1] / 1e3:.3g} us where they take {found[0] / 1e3:.3g}")


def _model(extents: Sequence[int], parts: Sequence[tuple[Node, Array]], attrs: dict[str, Any] | None = None) -> Model:
    """Products one after the other, without biases: ``attrs`` instead of the convolution's own."""
    b = Builder()
    y: Any = b.input("x", DType.F32, extents)
    for node, array in parts:
        weight = b.const(array.astype(np.float32))
        if node.op == "Conv":
            y = b.Conv(y, weight, **(dict(node.attrs) if attrs is None else attrs))
        else:
            y = b.MatMul(y, weight)
    b.output(y, "y")
    return b.model()


__all__ = ["require_faster"]
