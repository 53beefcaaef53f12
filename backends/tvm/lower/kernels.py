"""One kernel from one group: the operands' elements go through the rules of its nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from ....ir.graph import Node, Value
from .. import rules  # noqa: F401  # pyright: ignore[reportUnusedImport]  (its modules register)
from ..api import te, tirx, tvm
from ..groups import Group
from ..layout import Layouts
from ..rules.core import Context, Kind, Made, apply, before_cast, dtype_of, kind_of, number, shape_of
from .extents import Extent, atoms, variable
from .forms import Array, Element, Expr, Form, Index
from .requantized import merged_constants

Source: TypeAlias = Value | Array
"""What an operand of a kernel is: a value, or weights made at compile time."""


@dataclass
class Operand:
    """One operand of a kernel."""

    source: Source
    form: Form


@dataclass
class Kernel:
    """A function of TVM with what it is called on: operands, then results."""

    name: str
    key: str
    """Equal for equal functions."""
    make: Callable[[], Any]
    """The function, scheduled; asked for once for each key."""
    operands: list[Operand]
    results: list[tuple[Value, Form]]
    over: list[Value] = field(default_factory=list[Value])
    """Operands that the result may overwrite."""
    atoms: list[str] = field(default_factory=list[str])
    """What the function takes behind its tensors: atoms of extents."""
    equal: list[tuple[Extent, Extent]] = field(default_factory=list[tuple[Extent, Extent]])
    """Extents that have to be the same when it runs."""

    def function(self) -> Any:
        """The function with all that it takes. Asked for once for each key."""
        made = self.make()
        if not self.atoms:
            return made
        numbers = [variable(text) for text in self.atoms]
        return tirx.PrimFunc([*made.params, *numbers], made.body, attrs=made.attrs)


class Operands:
    """The operands of a kernel while its elements are put together."""

    def __init__(self, layouts: Layouts) -> None:
        self.layouts = layouts
        self.all: list[Operand] = []
        self.tensors: list[Any] = []
        """Placeholders of the operands."""
        self.read: list[Callable[..., Expr]] = []
        """How an operand's element at a physical index is read: from the placeholder, until somebody knows better."""
        self.elements: dict[Value, Element] = {}
        self.equal: list[tuple[Extent, Extent]] = []
        """What rules take for granted of extents."""

    def element(self, value: Value) -> Element:
        """Elements of a value from outside the group; constants of one element become numbers."""
        found = self.elements.get(value)
        if found is None:
            found = self.elements[value] = _immediate(value) or self._placed(value, self.layouts.form(value))
        return found

    def table(self, array: Array) -> Element:
        """Elements of weights made at compile time."""
        return self._placed(array, Form(array.shape, str(array.dtype)))

    def _placed(self, source: Source, form: Form) -> Element:
        at = len(self.all)
        tensor = form.placeholder(f"p{at}")
        self.all.append(Operand(source, form))
        self.tensors.append(tensor)
        self.read.append(tensor)

        def read(*index: Expr) -> Expr:
            return self.read[at](*index)

        return form.element(read)


def _immediate(value: Value) -> Element | None:
    if value.data is None or value.data.count != 1:
        return None
    known = number(value.data.numpy().reshape(-1)[0], dtype_of(value))
    return lambda index: known


def run_rules(nodes: Sequence[Node], operands: Operands, block: int, given: dict[Value, Element]) -> list[Made]:
    """The results of the last node; ``given`` are inner values that are known otherwise."""
    names = _Names()
    # Bodies of reductions and moved elements have indices of their own, for which no name holds.
    named = all(kind_of(node) is Kind.ELEMENTWISE for node in nodes)
    inner: dict[Value, Element] = {}

    def keep(value: Value, element: Element) -> None:
        inner[value] = names.shared(element) if named and len(value.uses) > 1 else element

    for value, element in given.items():
        keep(value, element)
    made: list[Made] = []
    for node in nodes:
        elements = [None if v is None else inner[v] if v in inner else operands.element(v) for v in node.inputs]
        made = apply(Context(node, elements, block, operands.table, operands.equal))
        for value, m in zip(node.outputs, made, strict=False):
            keep(value, m.element)
    return [replace(m, element=names.whole(m.element)) for m in made]


class _Names:
    """Names for elements that several nodes read, so that each is computed once."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, ...], Expr] = {}
        self.bound: list[tuple[Expr, Expr]] = []
        self.kept: list[Index] = []
        """What identities in ``known`` are of."""
        self.inside = False

    def shared(self, element: Element) -> Element:
        """The element by a name of its own, for each index."""

        def read(index: Index) -> Expr:
            key = (id(element), *map(id, index))
            if not self.inside:
                return element(index)
            if key not in self.known:
                value = element(index)
                self.kept.append(index)
                rounded = before_cast(value)
                name = tirx.Var("t", (value if rounded is None else rounded).ty)
                self.known[key] = name if rounded is None else name.astype("int32").astype(value.ty.dtype)
                self.bound.append((name, value if rounded is None else rounded))
            return self.known[key]

        return read

    def whole(self, element: Element) -> Element:
        """The element with all names that it reads."""

        def read(index: Index) -> Expr:
            self.inside = True
            found = element(index)
            for name, value in reversed(self.bound):
                found = tirx.Let(name, value, found)
            self.known, self.bound, self.kept, self.inside = {}, [], [], False
            return found

        return read


def group_name(group: Group) -> str:
    """Operators of the group, as a C identifier."""
    names = [node.op.lower() for node in group.nodes]
    return "_".join(names[:4] + (["etc"] if len(names) > 4 else []))


def plain_kernel(group: Group, layouts: Layouts, schedule: Callable[[Any], Any]) -> Kernel:
    """A group as tensor expressions. Raises ``Unsupported``."""
    operands = Operands(layouts)
    outputs = group.outputs or [group.last.outputs[0]]
    results = [(v, _as_operands(layouts.form(v), group, layouts)) for v in outputs]
    made = run_rules(group.nodes, operands, results[0][1].block, {})
    if group.last.op == "QuantizeLinear" and len(group.nodes) > 1 and _is_elementwise(group):
        made = [replace(m, element=_merged(m.element)) for m in made]
    chosen = [m for v, m in zip(group.last.outputs, made, strict=False) if v in outputs]
    stored = [form.compute(m.element, f"out{i}") for i, ((_, form), m) in enumerate(zip(results, chosen, strict=True))]
    function = te.create_prim_func([*operands.tensors, *stored])
    return Kernel(
        group_name(group),
        tvm.ir.save_json(function),
        lambda: schedule(function),
        operands.all,
        results,
        _over(group, layouts),
        atoms_of(group),
        operands.equal,
    )


def _is_elementwise(group: Group) -> bool:
    return all(kind_of(node).is_elementwise for node in group.nodes)


def _merged(element: Element) -> Element:
    return lambda index: merged_constants(element(index))


def _as_operands(form: Form, group: Group, layouts: Layouts) -> Form:
    """Single pixels are plain memory in any blocks: seen in the operands', channels are neighbours of a vector."""
    if len(form.shape) != 4 or form.shape[2:] != (1, 1) or form.block != 1:
        return form
    own = (layouts.form(v) for v in group.inputs)
    block = max((f.block for f in own if len(f.shape) == 4 and f.shape[1] == form.shape[1]), default=1)
    return replace(form, block=block)


def atoms_of(group: Group) -> list[str]:
    """Atoms of all extents in a group."""
    values = [v for node in group.nodes for v in node.inputs if v is not None]
    values += [v for node in group.nodes for v in node.outputs if v.uses]
    return list(atoms(extent for v in values for extent in shape_of(v)))


def copy_kernel(value: Value, source: Form, wanted: Form, schedule: Callable[[Any], Any]) -> Kernel:
    """A change of layout, or a copy."""
    x = source.placeholder("p0")
    out = wanted.compute(source.element(x), "out0")
    function = te.create_prim_func([x, out])
    name = "copy" if source.block == wanted.block else "relayout"
    return Kernel(
        name,
        tvm.ir.save_json(function),
        lambda: schedule(function),
        [Operand(value, source)],
        [(value, wanted)],
        atoms=list(atoms(source.shape)),
    )


def _over(group: Group, layouts: Layouts) -> list[Value]:
    """Operands of the result's form that are read at the result's own place only."""
    if not _is_elementwise(group) or len(group.outputs) != 1:
        return []
    form = layouts.form(group.outputs[0])
    return [v for v in group.inputs if v.data is None and layouts.form(v) == form]
