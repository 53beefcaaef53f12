"""The program: kernels in our order, each value in its place of the arena, weights as parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ....ir.errors import BackendError
from ....ir.graph import Graph, Node, Value
from ..api import relax, tvm
from ..groups import Group, groups_of
from ..kernels.machine import Machine, block_of
from ..layout import Layouts, assign_layouts
from ..plan import Plan, Step, plan_memory
from ..rules.core import Unsupported, dtype_of, static_shape
from .anchors import anchored_kernel
from .blocked import looked_through
from .forms import Array, Form
from .integers import integers_of, prepare
from .kernels import Kernel, Operand, copy_kernel, plain_kernel
from .recurrent import recurrent, recurrent_kernels
from .schedule import schedule

Key = Hashable
"""A storage: a value as it lies, ``("copy", value, block)`` for other blocks, ``("out", i)`` for a copied output."""


@dataclass
class Call:
    """One kernel in the program."""

    kernel: Kernel
    reads: list[Key | int]
    """By operand: a storage, or the number of a weight."""
    writes: list[Key]


@dataclass
class Program:
    """One function of the module."""

    name: str
    plan: Plan
    calls: list[Call]
    params: list[int]
    """Numbers of the weights that it takes behind its inputs."""


@dataclass
class Weights:
    """Weights in order of their first use; equal ones once."""

    arrays: list[Array] = field(default_factory=list[Array])
    known: dict[tuple[str, tuple[int, ...], bytes], int] = field(default_factory=dict[Any, int])

    def add(self, array: Array) -> int:
        array = np.ascontiguousarray(array)
        key = (str(array.dtype), array.shape, hashlib.blake2b(array.tobytes(), digest_size=16).digest())
        if key not in self.known:
            self.known[key] = len(self.arrays)
            self.arrays.append(array)
        return self.known[key]


class Module:
    """Functions of one library, with the kernels and weights that they share."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.builder: Any = relax.BlockBuilder()
        self.weights = Weights()
        self.functions: dict[tuple[str, bool], Any] = {}
        self.names: dict[str, int] = {}

    def function(self, kernel: Kernel, overwrites: bool) -> Any:
        """The kernel's function in the module, made where there is no equal one."""
        key = (kernel.key, overwrites)
        if key not in self.functions:
            self.names[kernel.name] = self.names.get(kernel.name, 0) + 1
            name = f"{kernel.name}_{self.names[kernel.name]}"
            self.functions[key] = self.builder.add_func(self.made(kernel, overwrites, name), name)
        return self.functions[key]

    def made(self, kernel: Kernel, overwrites: bool, name: str) -> Any:
        """The kernel's function; ``overwrites``: its result lies in the place of an operand."""
        function = kernel.make()
        if overwrites:
            function = function.without_attr("tirx.noalias")
        return function.with_attr("global_symbol", name)

    def lower(self, graph: Graph, name: str) -> Program:
        """A graph with static extents as a function. Raises ``BackendError``."""
        return _Lowering(graph, self, name).run()

    def build(self) -> Any:
        """Machine code and the program's instructions, to be linked or run."""
        t = relax.transform
        passes = [
            t.RemovePurityChecking(),
            t.LowerRuntimeBuiltin(),
            t.ComputePrimValue(),
            t.VMShapeLower(),
            t.AttachGlobalSymbol(),
        ]
        pipeline = tvm.transform.Sequential(passes)
        return relax.build(self.builder.get(), self.machine.target(), relax_pipeline=pipeline)


class _Lowering:
    """One graph on its way to a program."""

    def __init__(self, graph: Graph, module: Module, name: str) -> None:
        self.graph, self.module, self.name = graph, module, name
        self.machine, self.weights = module.machine, module.weights
        self.schedule = partial(schedule, machine=self.machine)
        prepare(graph)
        self.absorbed = looked_through(graph)
        """Dequantizers that products look through; made where one does not."""
        self.groups = groups_of(graph, self.absorbed)
        self.layouts: Layouts = assign_layouts(self.groups, lambda n: block_of(n, self.machine), graph.outputs)
        self.calls: list[Call] = []
        self.root: dict[Value, Key] = {v: v for v in graph.inputs}
        """The storage of every plain value that is a view of another."""
        self.sizes: dict[Key, int] = {}
        self.converted: dict[tuple[Value, int], Key] = {}
        """Copies of values in other blocks."""

    def run(self) -> Program:
        for group in self.groups:
            try:
                self._group(group)
            except Unsupported as why:
                raise BackendError(
                    f"{group.last.op} cannot be lowered: {why}",
                    where="tvm",
                    origin=group.last.name or None,
                    help="planish should have left it to ONNX Runtime: planish is at fault",
                ) from None
        outputs = self._outputs()
        return self._emit(outputs)

    # -- kernels

    def _group(self, group: Group) -> None:
        if group.is_view and self._view(group):
            return
        if recurrent(group.last):
            for kernel in recurrent_kernels(group.last, self.machine):
                self._call(kernel)
            return
        kernel = None
        if group.anchor is not None:
            self._plain_operands(group)
            kernel = anchored_kernel(group, self.layouts, self.machine)
            if kernel is None:
                self._dequantize(group.nodes[0])
        self._call(kernel or plain_kernel(group, self.layouts, self.schedule))

    def _dequantize(self, node: Node) -> None:
        """Makes the floats of a product that has no kernel on integers."""
        for value in node.inputs:
            producer = value.producer if value is not None else None
            if producer is not None and producer in self.absorbed:
                self.absorbed.discard(producer)
                self._call(plain_kernel(Group([producer]), self.layouts, self.schedule))

    def _view(self, group: Group) -> bool:
        """Makes the result share its operand's memory."""
        source, out = group.last.inputs[0], group.last.output
        if source is None or source.data is not None:
            return False
        self.root[out] = self._plain(source)
        return True

    def _plain_operands(self, group: Group) -> None:
        """Anchors but convolutions read plain operands."""
        if group.nodes[0].op == "Conv":
            return
        integers = integers_of(group.nodes[0])
        for value in [integers.x] if integers is not None else group.nodes[0].inputs:
            if value is not None and value.data is None:
                self._plain(value)

    def _plain(self, value: Value) -> Key:
        """The storage of the value's plain form, made where it has none."""
        return self._stored(value, 1)

    def _stored(self, value: Value, block: int) -> Key:
        """The storage of the value in blocks, a copy where it lies otherwise."""
        form = self.layouts.form(value)
        if form.block == block:
            return self.root.get(value, value)
        if (value, block) not in self.converted:
            key: Key = ("copy", value, block)
            wanted = Form(form.shape, form.dtype, block)
            self._call(copy_kernel(value, form, wanted, self.schedule), [key])
            self.converted[value, block] = key
        return self.converted[value, block]

    def _call(self, kernel: Kernel, writes: list[Key] | None = None) -> None:
        keys: list[Key] = writes if writes is not None else [value for value, _ in kernel.results]
        reads = [self._read(operand) for operand in kernel.operands]
        self.sizes.update((key, form.nbytes) for key, (_, form) in zip(keys, kernel.results, strict=True))
        self.calls.append(Call(kernel, reads, keys))

    def _read(self, operand: Operand) -> Key | int:
        source = operand.source
        if not isinstance(source, Value):
            return self.weights.add(source)
        if source.data is not None:
            return self.weights.add(operand.form.packed(source.data.numpy()))
        return self._stored(source, operand.form.block)

    def _outputs(self) -> list[Key]:
        """The storage of every output: each its own, written by a kernel."""
        found: list[Key] = []
        inputs: set[Key] = set(self.graph.inputs)
        for i, value in enumerate(self.graph.outputs):
            form = Form(static_shape(value), dtype_of(value))
            key: Key = None if value.data is not None else self._plain(value)
            if key is None or key in inputs or key in found:
                key = ("out", i)
                self._call(copy_kernel(value, form, form, self.schedule), [key])
            found.append(key)
        return found

    # -- the program

    def _emit(self, outputs: list[Key]) -> Program:
        elsewhere = frozenset([*outputs, *self.graph.inputs])
        steps = [
            Step(
                [key for key in call.reads if not isinstance(key, int)],
                [(key, self.sizes[key]) for key in call.writes],
                [self.root.get(v, v) for v in call.kernel.over],
            )
            for call in self.calls
        ]
        plan = plan_memory(steps, elsewhere)
        params = sorted({key for call in self.calls for key in call.reads if isinstance(key, int)})
        _Emitter(self, plan, outputs, params).run()
        return Program(self.name, plan, self.calls, params)


class _Emitter:
    """Writes the main function."""

    def __init__(self, lowering: _Lowering, plan: Plan, outputs: list[Key], params: list[int]) -> None:
        self.low, self.plan, self.outputs, self.params = lowering, plan, outputs, params
        self.builder = lowering.module.builder
        self.storages: dict[Key, Any] = {}
        self.views: dict[tuple[Key | int, tuple[int, ...]], Any] = {}
        self.arena: Any = None

    def run(self) -> None:
        graph, bb = self.low.graph, self.builder
        taken: set[str] = set()
        variables: list[Any] = []
        for value in graph.inputs:
            shape = static_shape(value)
            variable = _variable(_identifier(value.name, taken), shape, dtype_of(value))
            self.views[value, shape] = variable
            variables.append(variable)
        for i in self.params:
            array = self.low.weights.arrays[i]
            variable = _variable(_identifier(f"p{i}", taken), array.shape, str(array.dtype))
            self.views[i, array.shape] = variable
            variables.append(variable)
        with bb.function(self.low.name, variables, pure=False):
            if self.plan.arena_bytes:
                self.arena = self._storage(self.plan.arena_bytes)
            for key in self.outputs:
                self.storages[key] = self._storage(max(self.low.sizes[key], 1))
            for call_number, call in enumerate(self.low.calls):
                self._call(call, call_number in self.plan.taken_over)
            found = [
                self._tensor(key, static_shape(v), dtype_of(v))
                for key, v in zip(self.outputs, graph.outputs, strict=True)
            ]
            bb.emit_func_output(found[0] if len(found) == 1 else relax.Tuple(found))

    def _call(self, call: Call, overwrites: bool) -> None:
        function = self.low.module.function(call.kernel, overwrites)
        arguments = [
            self._tensor(key, operand.form.physical, operand.form.dtype)
            for key, operand in zip(call.reads, call.kernel.operands, strict=True)
        ]
        arguments += [
            self._tensor(key, form.physical, form.dtype)
            for key, (_, form) in zip(call.writes, call.kernel.results, strict=True)
        ]
        self.builder.emit(relax.Call(function, arguments))

    def _storage(self, size: int) -> Any:
        shape = relax.ShapeExpr([size])
        return self.builder.emit(relax.op.memory.alloc_storage(shape, 0, "global", "uint8"))

    def _tensor(self, key: Key | int, shape: tuple[int, ...], dtype: str) -> Any:
        """A tensor of the shape over a storage; weights and inputs are reshaped where kernels see them otherwise."""
        found = self.views.get((key, shape))
        if found is not None:
            return found
        if key in self.storages or key in self.plan.offsets:
            storage = self.storages.get(key, self.arena)
            offset = 0 if key in self.storages else self.plan.offsets[key]
            made = relax.op.memory.alloc_tensor(storage, offset, relax.ShapeExpr(shape), dtype)
        else:
            whole = next(tensor for (other, _), tensor in self.views.items() if other is key)
            reshape = relax.ExternFunc("vm.builtin.reshape")
            made = relax.Call(reshape, [whole, relax.ShapeExpr(shape)], ty_args=[relax.TensorType(shape, dtype)])
        found = self.views[key, shape] = self.builder.emit(made)
        return found


def _variable(name: str, shape: Sequence[int], dtype: str) -> Any:
    return relax.Var(name, relax.TensorType(tuple(shape), dtype))


def _identifier(name: str, taken: set[str]) -> str:
    text = "".join(c if c.isascii() and c.isalnum() else "_" for c in name) or "x"
    text = text if text[0].isalpha() else f"v{text}"
    while text in taken:
        text += "_"
    taken.add(text)
    return text
