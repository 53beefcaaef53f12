"""What a pattern is made of, and the tracer that builds one by running ``Rule.pattern``.

Patterns are closed: an attribute that is not mentioned must hold its schema default, an operand that is
not mentioned must be absent, and an inner result must have no user outside the match. Opening one of
these is written: ``attr=ANY``, ``attrs=KEEP``, ``b: Const | None``, ``shared=True``.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any, cast

from ...ir.errors import PassError
from ...ir.graph import Value
from ...ir.ops import COMMUTATIVE


class _Open:
    """``ANY``: whatever stands there. ``KEEP``: the same, and the rewrite carries it over."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


ANY: Any = _Open("ANY")
KEEP: Any = _Open("KEEP")


class Const(Value):
    """Annotation of a leaf that must be a constant; the match gives a :class:`Value` with ``data``."""


class PatternValue:
    """A value in a pattern. It has no truth value: a pattern cannot branch."""

    def __bool__(self) -> bool:
        raise PassError(
            "a pattern value has no truth value", help="move the condition into guard(); the rule's author is at fault"
        )


class Leaf(PatternValue):
    """A parameter of ``pattern``: any value, a constant, or possibly nothing."""

    def __init__(self, name: str, *, const: bool, optional: bool) -> None:
        self.name, self.const, self.optional = name, const, optional


class Scalar(PatternValue):
    """A constant with one element close to ``value``.

    Closeness is ``ulps`` units in the last place of the constant's own float type (exporters round
    constants to it in different orders), exact for integers. With ``name`` the match gives the value.
    """

    def __init__(self, value: float | None = None, *, ulps: float = 4, name: str = "") -> None:
        self.value, self.ulps, self.name = value, ulps, name


class NodePattern:
    """One operator of a pattern."""

    def __init__(
        self,
        ops: tuple[tuple[str, str], ...],
        inputs: tuple[PatternValue | None, ...],
        attrs: dict[str, Any],
        *,
        open_attrs: bool,
        bind: str | None,
        shared: bool,
        outputs: int,
    ) -> None:
        self.ops = frozenset(ops)
        self.names = frozenset(op for _, op in ops)
        self.inputs = inputs
        self.attrs = attrs
        self.open_attrs = open_attrs
        self.bind = bind
        self.shared = shared
        self.outputs = outputs
        self.commutes = len(inputs) == 2 and all(op in COMMUTATIVE for op in ops)
        self.min_inputs = len(inputs)
        for operand in reversed(inputs):
            if not (operand is None or (isinstance(operand, Leaf) and operand.optional)):
                break
            self.min_inputs -= 1

    def __str__(self) -> str:
        return "|".join(sorted(f"{d}::{o}" if d else o for d, o in self.ops))


class Result(PatternValue):
    """Output ``index`` of a node pattern."""

    def __init__(self, node: NodePattern, index: int) -> None:
        self.node, self.index = node, index


class Tracer:
    """The ``op`` that ``Rule.pattern`` gets: ``op.Add(x, y)``, ``op("Relu|Sigmoid", x)``."""

    def __call__(
        self,
        names: str,
        *inputs: Any,
        attrs: Any = None,
        bind: str | None = None,
        shared: bool = False,
        outputs: int = 1,
        **attr_patterns: Any,
    ) -> Any:
        ops = tuple(_split(n) for n in names.split("|"))
        operands = tuple(_operand(v) for v in inputs)
        node = NodePattern(
            ops, operands, attr_patterns, open_attrs=attrs is not None, bind=bind, shared=shared, outputs=outputs
        )
        results = [Result(node, i) for i in range(outputs)]
        return results[0] if outputs == 1 else tuple(results)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name[:1].isupper():
            raise AttributeError(name)
        return lambda *inputs, **kw: self(name, *inputs, **kw)


def _split(name: str) -> tuple[str, str]:
    domain, _, op = name.rpartition("::")
    return domain, op


def _operand(v: Any) -> PatternValue | None:
    if v is None or isinstance(v, PatternValue):
        return v
    if isinstance(v, (int, float)):
        return Scalar(v)
    raise PassError(f"a pattern operand is {type(v).__name__}, expected a leaf, a result, a number or None")


class Pattern:
    """A compiled pattern: its root and what a matcher wants to know in advance."""

    def __init__(self, root: NodePattern) -> None:
        self.root = root
        self.size = sum(1 for _ in _walk(root))


def compile_pattern(function: Callable[..., Any]) -> Pattern:
    """Runs ``Rule.pattern`` (bound) on a tracer and leaves made from its signature.

    Raises ``PassError`` when the pattern is not one operator tree with a single root.
    """
    hints = typing.get_type_hints(function)
    names = list(inspect.signature(function).parameters)[1:]
    leaves = [_leaf(name, hints.get(name, Value)) for name in names]
    result: Any = function(Tracer(), *leaves)
    if isinstance(result, tuple):
        result = cast("tuple[Any, ...]", result)[0]
    if not isinstance(result, Result):
        raise PassError(f"{function.__qualname__} returned {type(result).__name__}, expected the result of an operator")
    return Pattern(result.node)


def _leaf(name: str, hint: Any) -> PatternValue:
    kinds = typing.get_args(hint) or (hint,)
    return Leaf(name, const=Const in kinds, optional=type(None) in kinds)


def _walk(root: NodePattern) -> Iterator[NodePattern]:
    seen: set[int] = set()
    stack = [root]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        stack.extend(v.node for v in node.inputs if isinstance(v, Result))
