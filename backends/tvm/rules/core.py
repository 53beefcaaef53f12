"""What a rule gets and gives, and the table that rules register in.

A rule says what an operator computes: for each output an element as an expression over elements of its operands, or
a tensor where it takes a reduction. It knows nothing of layouts, storage, fusion or schedules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias, TypeVar, cast

from ....ir.dims import SymDim, dim_text, is_static
from ....ir.dtypes import DType
from ....ir.graph import Node, Value
from ..api import te, tirx
from ..lower.extents import Extent, Extents, expr
from ..lower.forms import Array, Element, Expr, Form, broadcast

SUPPORTED = frozenset(
    (
        DType.F32,
        DType.F64,
        DType.F16,
        DType.I8,
        DType.I16,
        DType.I32,
        DType.I64,
        DType.U8,
        DType.U16,
        DType.U32,
        DType.U64,
        DType.BOOL,
    )
)
"""Element types that kernels compute with."""


class Unsupported(Exception):
    """A rule declines a node; the message says why."""


class Kind(Enum):
    """How a rule's operator may be fused."""

    ELEMENTWISE = "elementwise"
    """Each element from the same place of operands that broadcast."""
    MOVEMENT = "movement"
    """Each element from one place of one operand; none is read more often than the operand's consumers would."""
    GATHERING = "gathering"
    """Each element from a few places: producers are not recomputed in it."""
    CHANNELWISE = "channelwise"
    """Reductions that stay within a channel: pooling, means over space. They keep a blocked layout."""
    STAGE = "stage"
    """Everything else that is made of reductions."""
    OWN = "own"
    """Loops of its own, written where results go: nothing joins it."""

    @property
    def is_elementwise(self) -> bool:
        return self is Kind.ELEMENTWISE


@dataclass(frozen=True)
class Made:
    """One result: by element, or as a tensor of a form."""

    element: Element
    form: Form


@dataclass
class Context:
    """One node while its rule runs."""

    node: Node
    elements: Sequence[Element | None]
    """Of the operands, by logical index."""
    block: int = 1
    """Of the axis 1 of results, where the rule is channelwise or elementwise."""
    table: Callable[[Array], Element] | None = None
    """Makes an operand of the kernel of an array that the rule computed."""
    equal: list[tuple[Extent, Extent]] = field(default_factory=list[tuple[Extent, Extent]])
    """Extents that the rule takes to be the same, which the program checks when it runs."""
    stages: int = 0
    """Number of tensors that were made on the way."""

    def shape(self, i: int) -> tuple[int, ...]:
        """Of an operand, in numbers. Raises ``Unsupported`` where the caller chooses one."""
        return static_shape(self._operand(i))

    def extents(self, i: int) -> Extents:
        """Of an operand. Raises ``Unsupported`` where nothing is known of one."""
        return shape_of(self._operand(i))

    def rank(self, i: int = 0) -> int:
        """Number of an operand's axes."""
        return len(self.extents(i))

    def dtype(self, i: int = 0) -> str:
        """Of an operand, as TVM names it."""
        return dtype_of(self._operand(i))

    def has(self, i: int) -> bool:
        return self.node.input(i) is not None

    def out_shape(self, i: int = 0) -> tuple[int, ...]:
        return static_shape(self.node.outputs[i])

    def out_extents(self, i: int = 0) -> Extents:
        return shape_of(self.node.outputs[i])

    def out_dtype(self, i: int = 0) -> str:
        return dtype_of(self.node.outputs[i])

    def x(self, i: int = 0) -> Element:
        """Elements of an operand."""
        found = self.elements[i]
        if found is None:
            raise Unsupported(f"operand {i} is omitted")
        return found

    def spread(self, i: int) -> Element:
        """Elements of an operand that broadcasts to the first output's shape."""
        return self.spread_to(i, self.out_extents())

    def spread_to(self, i: int, wanted: Extents) -> Element:
        """Elements of an operand that broadcasts to a shape, or to its last axes."""
        own = self.extents(i)
        for have, want in zip(reversed(own), reversed(wanted), strict=False):
            if have != 1:
                self.same(have, want)
        return broadcast(self.x(i), own, wanted)

    def same(self, a: Extent, b: Extent) -> None:
        """Takes two extents to be equal. Raises ``Unsupported`` where they are numbers that differ."""
        if a == b:
            return
        if isinstance(a, int) and isinstance(b, int):
            raise Unsupported(f"extents of {a} and {b} do not go together")
        self.equal.append((a, b))

    def const(self, i: int) -> Array:
        """A constant operand. Raises ``Unsupported`` where it is computed."""
        data = self._operand(i).data
        if data is None:
            raise Unsupported(f"operand {i} of {self.node.op} is not constant")
        return data.numpy()

    def const_or(self, i: int, default: Any) -> Any:
        """A constant operand, or the default where it is omitted."""
        return self.const(i) if self.has(i) else default

    def compute(self, shape: Extents, dtype: str, fill: Element, *, name: str = "") -> Element:
        """An intermediate tensor; ``fill`` may be a reduction. It is blocked as the result if it has its channels."""
        out = self.out_extents()
        same = self.block > 1 and len(shape) >= 2 and len(out) >= 2 and shape[1] == out[1]
        form = Form(shape, dtype, self.block if same else 1)
        tensor = form.compute(fill, name or f"{self.node.op.lower()}_{self.stages}")
        self.stages += 1
        return form.element(tensor)

    def param(self, array: Array) -> Element:
        """Elements of a table that the rule computed."""
        assert self.table is not None
        return self.table(array)

    def made(self, element: Element, i: int = 0) -> Made:
        return Made(element, Form(self.out_extents(i), self.out_dtype(i), self.block))

    def _operand(self, i: int) -> Value:
        value = self.node.input(i)
        if value is None:
            raise Unsupported(f"operand {i} of {self.node.op} is omitted")
        return value


Rule: TypeAlias = Callable[[Context], "list[Made] | Element"]


@dataclass(frozen=True)
class Entry:
    """A rule with what is known of it."""

    kind: Kind
    rule: Rule


RULES: dict[tuple[str, str], Entry] = {}
"""By domain and operator."""
_R = TypeVar("_R", bound=Callable[..., Any])


def rule(kind: Kind, *ops: str, domain: str = "") -> Callable[[_R], _R]:
    """Registers a rule for operators."""

    def register(function: _R) -> _R:
        for op in ops:
            RULES[domain, op] = Entry(kind, function)
        return function

    return register


def register_own(*ops: str) -> None:
    """Says that operators have kernels that are no expressions."""

    def none(c: Context) -> Element:
        raise Unsupported(f"{c.node.op} is no expression")

    for op in ops:
        RULES["", op] = Entry(Kind.OWN, none)


def kind_of(node: Node) -> Kind:
    """How a node may be fused."""
    entry = RULES.get((node.domain, node.op))
    return entry.kind if entry is not None else Kind.STAGE


def apply(context: Context) -> list[Made]:
    """The results of the node's rule. Raises ``Unsupported``."""
    entry = RULES.get((context.node.domain, context.node.op))
    if entry is None:
        raise Unsupported(f"there is no rule for {context.node.op}")
    found = entry.rule(context)
    return cast("list[Made]", found) if isinstance(found, list) else [context.made(found)]


def shape_of(value: Value) -> Extents:
    """The extents of a value. Raises ``Unsupported`` where nothing is known of one."""
    shape = value.shape
    if shape is None or None in shape:
        raise Unsupported(f"the extents of %{value.name} are not numbers: {value.type}")
    return cast("Extents", shape)


def static_shape(value: Value) -> tuple[int, ...]:
    """The extents of a value. Raises ``Unsupported`` where one is not a number."""
    return numbers(shape_of(value))


def numbers(extents: Extents) -> tuple[int, ...]:
    """The same, where they are numbers. Raises ``Unsupported``."""
    if not is_static(extents):
        raise Unsupported(f"open extents: {', '.join(dim_text(e) for e in extents if isinstance(e, SymDim))}")
    return cast("tuple[int, ...]", extents)


def dtype_of(value: Value) -> str:
    """The element type as TVM names it. Raises ``Unsupported``."""
    dtype = value.dtype
    if dtype is None or dtype not in SUPPORTED:
        raise Unsupported(f"%{value.name} has the element type {dtype.text if dtype else 'unknown'}")
    return dtype.numpy_name


# -- expressions


def number(x: Any, dtype: str) -> Expr:
    """A number, or an extent, as an expression of the type."""
    if isinstance(x, SymDim):
        return expr(x).astype(dtype)
    if dtype == "bool":
        return tirx.const(bool(x), "bool")
    return tirx.const(float(x) if dtype.startswith("float") else int(x), dtype)


def named(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """``body`` of a value that it reads several times, which is computed once."""
    if isinstance(value, (tirx.Var, tirx.IntImm, tirx.FloatImm)):
        return body(value)
    name = tirx.Var("t", value.ty)
    return tirx.Let(name, value, body(name))


def reduce_axis(extent: Extent, name: str) -> Any:
    return te.reduce_axis((0, expr(extent)), name=name)


def before_cast(x: Expr) -> Expr | None:
    """The whole number of single precision that a quantizer made an integer of, so that one that is dequantized again
    needs neither cast; ``None`` where this is something else."""
    inner: Any = (
        x.value if isinstance(x, tirx.Cast) and str(x.ty.dtype) in ("int8", "uint8", "int16", "uint16") else None
    )
    if not isinstance(inner, tirx.Cast) or str(inner.ty.dtype) != "int32":
        return None
    return inner.value if str(inner.value.ty.dtype) == "float32" else None
