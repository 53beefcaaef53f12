"""How to add an operator to inference: the tables of rules, and what rules are made of.

A *type rule* takes a node and returns the types of its outputs in order (``None``: unknown), or ``None``
altogether to leave the node to ONNX's C++ rule. A *contents rule* returns the elements of the first
output, a small integer tensor. Both read operands through the functions below and say what holds in
every run, nothing else; where operands contradict the operator they call :func:`fail`.

    @row("Relu", "Tanh")
    def same_type(node: Node) -> Types: ...

One stated exception to "every run": a symbolic element of a Reshape target is taken for an extent, not
for the special values 0 and -1 (see ``movement.reshape``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NoReturn, Protocol, TypeAlias

from ..constants import Constant
from ..dims import Call, Dim, Monomial, Shape, SymDim, dim_text
from ..dtypes import DType
from ..errors import ModelError
from ..graph import Graph, Node, Value
from ..types import TensorType, Type

Types: TypeAlias = "Sequence[Type | None] | None"
Row: TypeAlias = Callable[[Node], Types]
Elements: TypeAlias = "tuple[Dim, ...] | None"
Contents: TypeAlias = "Callable[[Node], Elements | list[Elements]]"
"""Elements of the first output, or a list with those of each output."""


class Engine(Protocol):
    """What a rule of a node with bodies may ask for."""

    depth: int
    """How many bodies deep the node lies."""
    strict: bool
    """Whether contradictions raise at once."""

    def body(self, graph: Graph) -> None:
        """Infers the nodes of a body whose inputs have their types."""
        ...

    def forgive(self, graph: Graph) -> None:
        """Forgets the contradictions found in a body that no run enters."""
        ...


Control: TypeAlias = Callable[[Node, Engine], Types]

ROWS: dict[tuple[str, str], Row] = {}
CONTENTS: dict[tuple[str, str], Contents] = {}
CONTROLS: dict[tuple[str, str], Control] = {}

MAX_ELEMENTS = 64
"""Longest tensor whose elements are followed."""
NEWEST = 1 << 30
"""Version taken for a node that is in no graph yet."""


def row(*ops: str, domain: str = "") -> Callable[[Row], Row]:
    """Registers the type rule of operators."""

    def register(rule: Row) -> Row:
        for op in ops:
            ROWS[domain, op] = rule
        return rule

    return register


def contents(*ops: str, domain: str = "") -> Callable[[Contents], Contents]:
    """Registers the contents rule of operators."""

    def register(rule: Contents) -> Contents:
        for op in ops:
            CONTENTS[domain, op] = rule
        return rule

    return register


def control(*ops: str, domain: str = "") -> Callable[[Control], Control]:
    """Registers the type rule of operators with bodies."""

    def register(rule: Control) -> Control:
        for op in ops:
            CONTROLS[domain, op] = rule
        return rule

    return register


# -- failing


def fail(node: Node, message: str) -> NoReturn:
    """Raises ``ModelError``: the operands contradict the operator. ``message`` says found and expected."""
    raise mismatch(node, message)


def mismatch(node: Node, message: str) -> ModelError:
    """The error that :func:`fail` raises."""
    name = f"{node.domain}::{node.op}" if node.domain else node.op
    return ModelError(
        f"{name}: {message}",
        where="infer",
        at=_line(node),
        origin=node.name or None,
        help="the model is inconsistent here, or the pass that made this node is at fault",
    )


def _line(node: Node) -> str:
    """The node in the textual form, with the types of its operands."""
    try:
        from ..text.printer import print_node

        line = print_node(node)
    except Exception:  # An error message must not fail: a half-built node may not print.
        line = repr(node)
    operands = ", ".join(repr(v) for v in node.inputs if v is not None)
    return f"{line.strip()}  with {operands}" if operands else line.strip()


# -- reading operands


def version(node: Node) -> int:
    """The version of the node's domain, the newest one for a node outside any graph."""
    return node.version or NEWEST


def tensor(node: Node, i: int) -> TensorType | None:
    """The tensor type of operand ``i`` without annotations; ``None`` where omitted or unknown."""
    value = node.inputs[i] if i < len(node.inputs) else None
    return plain(value.type) if value is not None else None


def plain(t: Type | None) -> TensorType | None:
    """A tensor type without layout and quantization, which passes assign value by value."""
    if type(t) is not TensorType:
        return None
    return t if t.layout is None and t.quant is None else TensorType(t.dtype, t.shape, sparse=t.sparse)


def shape_of(node: Node, i: int) -> Shape | None:
    """The shape of operand ``i``; ``None`` where omitted or unknown."""
    value = node.inputs[i] if i < len(node.inputs) else None
    return value.type.shape if value is not None and type(value.type) is TensorType else None


def dtype_of(node: Node, i: int) -> DType | None:
    """The element type of operand ``i``; ``None`` where omitted or unknown."""
    value = node.inputs[i] if i < len(node.inputs) else None
    return value.type.dtype if value is not None and type(value.type) is TensorType else None


def common_dtype(node: Node, *operands: int) -> DType | None:
    """The element type that the given operands share; fails where two differ."""
    found: DType | None = None
    for i in operands:
        dtype = dtype_of(node, i)
        if dtype is not None:
            if found is not None and dtype is not found:
                fail(node, f"operand {i} has element type {dtype.text}, expected {found.text} as the others")
            found = dtype
    return found


def present(node: Node, i: int) -> bool:
    """Whether operand ``i`` is given."""
    return i < len(node.inputs) and node.inputs[i] is not None


WHOLE = frozenset((DType.I64, DType.I32, DType.BOOL))
"""Element types whose small tensors have known elements."""


def elements_of(value: Value | None) -> Elements:
    """The elements of a small integer or boolean tensor (booleans as 0 and 1) where they are known."""
    if value is None:
        return None
    data = value.data
    if data is None:
        return value.known
    if data.dtype not in WHOLE or len(data.shape) > 1 or data.count > MAX_ELEMENTS:
        return None
    return tuple(map(int, data.numpy().reshape(-1).tolist()))


def elements(node: Node, i: int) -> Elements:
    """:func:`elements_of` operand ``i``."""
    return elements_of(node.inputs[i]) if i < len(node.inputs) else None


def ints(node: Node, i: int) -> tuple[int, ...] | None:
    """The elements of operand ``i`` where all are plain integers."""
    found = elements(node, i)
    if found is None:
        return None
    out = tuple(d for d in found if type(d) is int)
    return out if len(out) == len(found) else None


def constant(node: Node, i: int) -> Constant | None:
    """The constant at operand ``i``."""
    value = node.inputs[i] if i < len(node.inputs) else None
    return value.data if value is not None else None


def int_attr(node: Node, name: str, default: int) -> int:
    """An integer attribute, else ``default``."""
    found = node.attrs.get(name, default)
    if not isinstance(found, int):
        fail(node, f"attribute {name} is {found!r}, expected an integer")
    return found


def ints_attr(node: Node, name: str) -> tuple[int, ...] | None:
    """An attribute that lists integers; ``None`` where it is absent or empty."""
    found = node.attrs.get(name)
    if not found:
        return None
    if not isinstance(found, tuple):
        fail(node, f"attribute {name} is {found!r}, expected a list of integers")
    whole = tuple([x for x in found if isinstance(x, int)])
    if len(whole) != len(found):
        fail(node, f"attribute {name} is {found!r}, expected a list of integers")
    return whole


def attr_or_operand(node: Node, name: str, i: int) -> Elements:
    """A list of integers that older versions give as an attribute and newer ones as operand ``i``.

    ``None`` where the operand is there but its elements are not known; test with :func:`given` first
    where absence has a meaning of its own.
    """
    attr = node.attrs.get(name)
    if attr is not None:
        return ints_attr(node, name) or () if isinstance(attr, tuple) else (int_attr(node, name, 0),)
    return elements(node, i)


def given(node: Node, name: str, i: int) -> bool:
    """Whether attribute ``name`` or operand ``i`` is there."""
    return name in node.attrs or present(node, i)


def length(node: Node, i: int) -> int | None:
    """The number of elements of the rank-1 operand ``i`` where it is a plain integer that may be a rank."""
    shape = shape_of(node, i)
    if shape is None or len(shape) != 1:
        return None
    return shape[0] if type(shape[0]) is int and shape[0] <= MAX_ELEMENTS else None


def axis_of(node: Node, axis: int, rank: int) -> int:
    """``axis`` counted from the front; fails outside ``[-rank, rank)``."""
    if not -rank <= axis < rank:
        fail(node, f"axis {axis} found, expected {-rank} to {rank - 1} for rank {rank}")
    return axis + rank if axis < 0 else axis


def axes_of(node: Node, axes: Elements, rank: int) -> list[int] | None:
    """Axes counted from the front, each once; ``None`` where one is not a plain integer."""
    if axes is None:
        return None
    out: list[int] = []
    for axis in axes:
        if type(axis) is not int:
            return None
        out.append(axis_of(node, axis, rank))
    if len(set(out)) != len(out):
        fail(node, f"axes {[dim_text(a) for a in axes]} found, expected each axis once")
    return out


# -- extents


def broadcast_dim(node: Node, a: Dim, b: Dim) -> Dim:
    """The extent of two extents broadcast against each other; different symbols give an unknown one."""
    if a == 1:
        return b
    if b == 1 or a == b:
        return a
    a_whole, b_whole = type(a) is int, type(b) is int
    if a_whole and b_whole:
        fail(node, f"extents {a} and {b} do not broadcast, expected equal ones or 1")
    # An extent other than 1 stands whatever the other is: the run fails otherwise.
    if a_whole or b_whole:
        return a if a_whole else b
    return a if _is_clipped(b, a) else b if _is_clipped(a, b) else None


def _is_clipped(d: Dim, whole: Dim) -> bool:
    """Whether ``d`` is ``min(whole, n)`` with an integer n above 0: where the two differ they do not broadcast, unless
    ``d`` is 1."""
    factors = d.terms[0][0] if isinstance(d, SymDim) and len(d.terms) == 1 and d.terms[0][1] == 1 else ()
    if len(factors) != 1 or isinstance(factors[0], str) or factors[0].function != "min" or whole is None:
        return False
    sides = (factors[0].a, factors[0].b)
    return any(x == whole and type(n) is int and n > 0 for x, n in (sides, sides[::-1]))


def broadcast(node: Node, a: Shape | None, b: Shape | None) -> Shape | None:
    """Numpy broadcasting of two shapes."""
    if a is None or b is None:
        return None
    if a == b:
        return a
    if len(a) < len(b):
        a, b = b, a
    lead = len(a) - len(b)
    return a[:lead] + tuple([broadcast_dim(node, x, y) for x, y in zip(a[lead:], b, strict=True)])


def equal_dim(node: Node, a: Dim, b: Dim, what: str) -> Dim:
    """The extent of two that every run must have equal; fails where they are different integers."""
    if type(a) is int:
        if type(b) is int and a != b:
            fail(node, f"{what}: extents {a} and {b}, expected equal ones")
        return a
    return b if type(b) is int or a is None else a


@lru_cache(1 << 14)
def lower_bound(d: Dim, least: int = 0) -> int | None:
    """A number that ``d`` never falls below when all symbols are at least ``least``; ``None`` where none is seen."""
    if not isinstance(d, SymDim):
        return d
    total = 0
    for monomial, coefficient in d.terms:
        low, high = _product_bounds(monomial, least)
        bound = low if coefficient > 0 else high
        if bound is None:
            return None
        total += coefficient * bound
    return total


def _product_bounds(monomial: Monomial, least: int) -> tuple[int | None, int | None]:
    low: int | None = 1
    high: int | None = 1
    for factor in monomial:
        low_f, high_f = (least, None) if isinstance(factor, str) else _call_bounds(factor, least)
        if len(monomial) == 1:
            return low_f, high_f
        if low_f is None or low_f < 0:
            return None, None  # bounds of products are simple for non-negative factors only
        low = None if low is None else low * low_f
        high = None if high is None or high_f is None else high * high_f
    return low, high


def _call_bounds(factor: Call, least: int) -> tuple[int | None, int | None]:
    low_a, low_b = lower_bound(factor.a, least), lower_bound(factor.b, least)
    if factor.function == "mod":
        return (0, factor.b - 1) if type(factor.b) is int and factor.b > 0 else (None, None)
    if factor.function == "floordiv":
        if type(factor.b) is int and factor.b > 0:
            return (None if low_a is None else low_a // factor.b), None
        # A symbolic divisor is at least 1 (else the run fails): the quotient keeps the dividend's sign.
        return (0 if low_a is not None and low_a >= 0 and low_b is not None and low_b >= 0 else None), None
    high = [x for x in (factor.a, factor.b) if type(x) is int]
    if factor.function == "min":
        low = None if low_a is None or low_b is None else min(low_a, low_b)
        return low, min(high) if high else None
    lows = [x for x in (low_a, low_b) if x is not None]
    return (max(lows) if lows else None), None


def is_nonnegative(d: Dim) -> bool:
    """Whether ``d`` is proved to be at least 0 in every run."""
    low = lower_bound(d)
    return low is not None and low >= 0
