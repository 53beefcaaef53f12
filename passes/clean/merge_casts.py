"""merge-casts: ``cast(cast(x, A), B) = cast(x, B)`` where every value of ``x``'s type is a value of ``A``.

Then the inner cast changes nothing that the outer one sees. Where ``B`` is ``x``'s own type both go.

**Why**    mixed-precision converters leave ``f16 -> f32 -> f16`` around every operator they protect.
**Needs**  that ``A`` holds every value of ``x``'s type: more integer bits, or a float with at least as much
           precision and range.
**Leaves** an ``A`` that rounds or wraps; from a float to an integer, where what lies out of range depends on
           the path; 8- and 4-bit floats, whose casts saturate; strings.
**Numbers** exact.
**Source** ONNX Cast-13 to 25; IEEE 754 for what a format can hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...ir.dtypes import DType
from ...ir.graph import Node
from ..core import RewritePass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NodeRule, NoMatch, Replacement
from ..shared.operands import producer_of

_FLOATS = {DType.BF16: (8, 8), DType.F16: (11, 5), DType.F32: (24, 8), DType.F64: (53, 11)}
"""Bits of precision (the hidden one too) and of exponent."""


@dataclass
class MergeCasts(RewritePass):
    """Removes the inner one of two casts where it loses nothing."""

    def rules(self) -> Iterable[NodeRule]:
        return [CastOfCast()]


class CastOfCast(NodeRule):
    """Casts directly."""

    roots = ("Cast",)

    def promising(self, node: Node) -> bool:
        return producer_of(node, 0, "Cast") is not None

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        inner = producer_of(node, 0, "Cast")
        x = inner.inputs[0] if inner is not None else None
        if inner is None or x is None:
            raise NoMatch("the operand is not computed by Cast")
        source, middle, to = x.dtype, inner.output.dtype, node.output.dtype
        if source is None or middle is None or to is None:
            raise NoMatch("an element type is unknown")
        if not holds(middle, source):
            raise NoMatch(f"{middle.text} does not hold every value of {source.text}")
        if to is source:
            return x
        if to not in _FLOATS and not to.is_integer and to is not DType.BOOL:
            raise NoMatch(f"casts to {to.text} saturate or print")
        if to.is_integer and (source.is_float or (middle.is_float and not holds(to, source))):
            raise NoMatch(f"what {to.text} cannot hold depends on the path")
        return r.Cast(x, to=to.code)


def holds(wide: DType, narrow: DType) -> bool:
    """Whether every value of ``narrow`` is a value of ``wide``."""
    if wide is narrow:
        return True
    if narrow in _FLOATS:
        return wide in _FLOATS and all(a >= b for a, b in zip(_FLOATS[wide], _FLOATS[narrow], strict=True))
    bits = 1 if narrow is DType.BOOL else narrow.bits - (narrow.kind == "int")
    if not (narrow.is_integer or narrow is DType.BOOL):
        return False
    if wide in _FLOATS:
        return _FLOATS[wide][0] >= bits and 2 ** (_FLOATS[wide][1] - 1) > bits
    if wide.kind == "uint":
        return narrow.kind != "int" and wide.bits >= bits
    return wide.kind == "int" and wide.bits - 1 >= bits
