"""The main function: storages, tensors in them, and calls of kernels in our order, as TVM's virtual machine runs them.

Where extents are open it takes the symbols' values behind inputs and weights, as one shape. It computes what kernels
want to know of them, checks what they take for granted, and finds where each value lies in the arena.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ....ir.dims import SymDim
from ....ir.graph import Graph
from ..api import relax, tirx
from ..kernels.emit import function, maximum, parameter, seq, store
from ..plan import ALIGNMENT, Key, Plan
from ..rules.core import dtype_of, shape_of
from .extents import Extent, Extents, atoms, computed, count, polynomial, symbols, variable
from .forms import Array
from .kernels import Kernel


@dataclass
class Call:
    """One kernel in the program."""

    kernel: Kernel
    reads: list[Key | int]
    """By operand: a storage, or the number of a weight."""
    writes: list[Key]


class Library(Protocol):
    """What the function becomes part of."""

    builder: Any

    def function(self, kernel: Kernel, overwrites: bool) -> Any:
        """A kernel's function; ``overwrites``: its result lies in the place of an operand."""
        ...

    def named(self, name: str) -> str:
        """A name that no other function has."""
        ...

    def weight(self, number: int) -> Array:
        """A weight by its number."""
        ...


class Emitter:
    """Writes one function."""

    def __init__(
        self,
        module: Library,
        graph: Graph,
        calls: Sequence[Call],
        sizes: dict[Key, Extent],
        outputs: list[Key],
        params: list[int],
        plan: Plan,
    ) -> None:
        self.module, self.graph, self.calls, self.sizes = module, graph, calls, sizes
        self.outputs, self.params, self.plan = outputs, params, plan
        self.builder = module.builder
        values = [*graph.inputs, *graph.outputs, *(v for node in graph for v in node.outputs if v.uses)]
        every = [extent for v in values for extent in shape_of(v)]
        self.made = [e for e in dict.fromkeys(every) if isinstance(e, SymDim) and e.name is None]
        """Extents that are not the caller's own."""
        self.counts = [n for n in dict.fromkeys(count(shape_of(v)) for v in values) if isinstance(n, SymDim)]
        """Elements of tensors."""
        self.atoms = atoms(every)
        self.symbols = symbols(every)
        """What the function takes as its last argument, in this order."""
        self.chosen = {name: tirx.Var(f"n{i}", "int64") for i, name in enumerate(self.symbols)}
        self.values: dict[str, Any] = {}
        """Atoms as the function knows them, 64 bits."""
        self.storages: dict[Key, Any] = {}
        self.offsets: dict[Key, Any] = dict(plan.offsets)
        self.views: dict[tuple[Key | int, Extents], Any] = {}
        self.arena: Any = None

    def run(self, name: str, equal: Sequence[tuple[Extent, Extent]]) -> None:
        """The function, called so; ``equal`` is to be checked beside what kernels take for granted."""
        bb = self.builder
        variables = self._variables()
        with bb.function(name, variables, pure=False):
            if self.symbols:
                self._know([*equal, *(pair for call in self.calls for pair in call.kernel.equal)])
            self._lay()
            for number, call in enumerate(self.calls):
                self._call(call, number in self.plan.taken_over)
            found = [
                self._tensor(key, shape_of(v), dtype_of(v))
                for key, v in zip(self.outputs, self.graph.outputs, strict=True)
            ]
            bb.emit_func_output(found[0] if len(found) == 1 else relax.Tuple(found))

    def _variables(self) -> list[Any]:
        """Inputs, weights, the symbols' values."""
        taken: set[str] = set()
        variables: list[Any] = []
        self.values = {text: computed(atom, self.chosen) for text, atom in self.atoms.items()}
        for value in self.graph.inputs:
            shape = shape_of(value)
            variable_ = self._variable(_identifier(value.name, taken), shape, dtype_of(value))
            self.views[value, shape] = variable_
            variables.append(variable_)
        for i in self.params:
            array = self.module.weight(i)
            variable_ = self._variable(_identifier(f"p{i}", taken), array.shape, str(array.dtype))
            self.views[i, array.shape] = variable_
            variables.append(variable_)
        if self.symbols:
            variables.append(relax.Var(_identifier("extents", taken), relax.ShapeType(list(self.chosen.values()))))
        return variables

    def _know(self, equal: Sequence[tuple[Extent, Extent]]) -> None:
        """Atoms, each computed once, and checks."""
        known = {text: tirx.Var(f"a{i}", "int64") for i, text in enumerate(self.atoms)}
        self._match([self.values[text] for text in self.atoms], list(known.values()))
        self.values = known
        pairs = dict.fromkeys(equal)
        if pairs:
            self._match([self._extent(a) for a, _ in pairs], [self._extent(b) for _, b in pairs])
        if self.counts:  # kernels count in 32 bits
            most: Any = tirx.const(0, "int64")
            for n in self.counts:
                most = maximum(most, self._extent(n))
            self._match([most // (1 << 31)], [tirx.const(0, "int64")])
        if self.made:  # nothing is made for tensors without elements, nor for windows that do not fit
            self._match([tirx.min(self._extent(e), 1) for e in self.made], [tirx.const(1, "int64")] * len(self.made))

    def _match(self, given: Sequence[Any], wanted: Sequence[Any]) -> None:
        """Gives names to numbers, or checks numbers that have one."""
        shape = self.builder.emit(relax.ShapeExpr(given))
        self.builder.match_cast(shape, relax.ShapeType(wanted))

    def _lay(self) -> None:
        """The arena and the outputs' storages."""
        if self.plan.open:
            self._place()
        elif self.plan.arena_bytes:
            self.arena = self._storage(self.plan.arena_bytes)
        for key in self.outputs:
            self.storages[key] = self._storage(self.sizes[key] or 1)

    def _place(self) -> None:
        """Where each value lies, by a function of its own: above all that live with it and lay below it in the plan
        for usual extents."""
        parts = self.plan.lowest_first
        names = list(atoms(part.size for part in parts))
        offsets = parameter("offsets", (len(parts) + 1,), "int64")
        wide = {text: tirx.Cast("int64", variable(text)) for text in names}
        tops: list[Any] = []
        statements: list[Any] = []
        top: Any = tirx.const(0, "int64")
        for i, part in enumerate(parts):
            begin: Any = tirx.const(0, "int64")
            for below in part.above:
                begin = maximum(begin, tops[below])
            size = polynomial(part.size, wide.__getitem__)
            statements.append(store(offsets, begin, i))
            tops.append(offsets[i] + (size + (ALIGNMENT - 1)) // ALIGNMENT * ALIGNMENT)
            top = maximum(top, tops[-1])
        made = function([offsets], seq(statements, store(offsets, top, len(parts))), "place")
        made = tirx.PrimFunc([offsets, *map(variable, names)], made.body, attrs=made.attrs)
        name = self.module.named("place")
        place = self.builder.add_func(made.with_attr("global_symbol", name), name)
        shape = relax.ShapeExpr([len(parts) + 1])
        tensor = relax.op.memory.alloc_tensor(self._storage(8 * (len(parts) + 1)), 0, shape, "int64")
        table = self.builder.emit(tensor)
        self.builder.emit(relax.Call(place, [table, *self._numbers(names)]))
        found = relax.ExternFunc("vm.builtin.tensor_to_shape")
        read = self.builder.emit(relax.Call(found, [table], ty_args=[relax.ShapeType(ndim=len(parts) + 1)]))
        placed = [tirx.Var(f"o{i}", "int64") for i in range(len(parts) + 1)]
        self.builder.match_cast(read, relax.ShapeType(placed))
        at = {part.key: offset for part, offset in zip(parts, placed, strict=False)}
        self.offsets = {key: at[base] for key, base in self.plan.lies_in.items()}
        self.arena = self.builder.emit(_storage(placed[-1]))

    def _call(self, call: Call, overwrites: bool) -> None:
        function = self.module.function(call.kernel, overwrites)
        arguments = [
            self._tensor(key, operand.form.physical, operand.form.dtype)
            for key, operand in zip(call.reads, call.kernel.operands, strict=True)
        ]
        arguments += [
            self._tensor(key, form.physical, form.dtype)
            for key, (_, form) in zip(call.writes, call.kernel.results, strict=True)
        ]
        self.builder.emit(relax.Call(function, [*arguments, *self._numbers(call.kernel.atoms)]))

    def _numbers(self, texts: Sequence[str]) -> list[Any]:
        return [tirx.Cast("int32", self.values[text]) for text in texts]

    def _extent(self, extent: Extent) -> Any:
        return polynomial(extent, self.values.__getitem__)

    def _shape(self, shape: Extents) -> Any:
        return relax.ShapeExpr([self._extent(extent) for extent in shape])

    def _storage(self, size: Extent) -> Any:
        return self.builder.emit(_storage(self._extent(size)))

    def _tensor(self, key: Key | int, shape: Extents, dtype: str) -> Any:
        """A tensor of the shape over a storage; weights and inputs are reshaped where kernels see them otherwise."""
        found = self.views.get((key, shape))
        if found is not None:
            return found
        if key in self.storages or key in self.offsets:
            storage = self.storages.get(key, self.arena)
            offset = 0 if key in self.storages else self.offsets[key]
            made = relax.op.memory.alloc_tensor(storage, offset, self._shape(shape), dtype)
        else:
            whole = next(tensor for (other, _), tensor in self.views.items() if other is key)
            reshape = relax.ExternFunc("vm.builtin.reshape")
            seen = self._shape(shape)
            made = relax.Call(reshape, [whole, seen], ty_args=[relax.TensorType(seen, dtype)])
        found = self.views[key, shape] = self.builder.emit(made)
        return found

    def _variable(self, name: str, shape: Extents, dtype: str) -> Any:
        return relax.Var(name, relax.TensorType(self._shape(shape), dtype))


def _storage(size: Any) -> Any:
    return relax.op.memory.alloc_storage(relax.ShapeExpr([size]), 0, "global", "uint8")


def _identifier(name: str, taken: set[str]) -> str:
    text = "".join(c if c.isascii() and c.isalnum() else "_" for c in name) or "x"
    text = text if text[0].isalpha() else f"v{text}"
    while text in taken:
        text += "_"
    taken.add(text)
    return text
