"""The program: kernels in our order, each value in its place of the arena, weights as parameters."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ....ir.errors import BackendError
from ....ir.graph import Graph, Node, Value
from ..api import relax, tvm
from ..groups import Group, groups_of
from ..kernels.machine import Machine, block_of
from ..kernels.stages import scratch_bytes
from ..layout import Layouts, assign_layouts
from ..plan import Key, Plan, Step, plan_memory
from ..rules.core import Unsupported, dtype_of, shape_of
from .anchors import anchored_kernel
from .blocked import looked_through
from .emission import Call, Emitter
from .extents import Extent, count
from .forms import Array, Form
from .integers import integers_of, prepare
from .kernels import Kernel, Operand, copy_kernel, plain_kernel
from .recurrent import recurrent, recurrent_kernels
from .scatter import scatter_kernels, scattering
from .schedule import schedule


@dataclass
class Program:
    """One function of the module."""

    name: str
    plan: Plan
    calls: list[Call]
    params: list[int]
    """Numbers of the weights that it takes behind its inputs."""
    symbols: list[str]
    """Open extents, whose values it takes behind the weights, as one shape."""
    scratch_bytes: int
    """What one kernel at most takes for itself while it runs, for each thread: it is not in the plan."""


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
        self.functions: dict[tuple[str, tuple[str, ...], bool], Any] = {}
        self.names: dict[str, int] = {}
        self.scratch: dict[str, int] = {}
        """Bytes that kernels take for themselves, by what makes them equal."""

    def function(self, kernel: Kernel, overwrites: bool) -> Any:
        """The kernel's function in the module, made where there is no equal one."""
        key = (kernel.key, tuple(kernel.atoms), overwrites)
        if key not in self.functions:
            name = self.named(kernel.name)
            self.functions[key] = self.builder.add_func(self.made(kernel, overwrites, name), name)
        return self.functions[key]

    def named(self, name: str) -> str:
        """A name that no other function of the module has."""
        self.names[name] = self.names.get(name, 0) + 1
        return f"{name}_{self.names[name]}"

    def weight(self, number: int) -> Array:
        """A weight by its number."""
        return self.weights.arrays[number]

    def made(self, kernel: Kernel, overwrites: bool, name: str) -> Any:
        """The kernel's function; ``overwrites``: its result lies in the place of an operand."""
        function = kernel.function()
        self.scratch[kernel.key] = scratch_bytes(function)
        if overwrites:
            function = function.without_attr("tirx.noalias")
        return function.with_attr("global_symbol", name)

    def lower(self, graph: Graph, name: str) -> Program:
        """A graph as a function. Raises ``BackendError``."""
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
        prepare(graph, split=self.machine.is_gpu)
        self.absorbed = looked_through(graph)
        """Dequantizers that products look through; made where one does not."""
        self.groups = groups_of(graph, self.absorbed)
        self.layouts: Layouts = assign_layouts(self.groups, lambda n: block_of(n, self.machine), graph.outputs)
        self.calls: list[Call] = []
        self.root: dict[Value, Key] = {v: v for v in graph.inputs}
        """The storage of every plain value that is a view of another."""
        self.sizes: dict[Key, Extent] = {}
        self.equal: list[tuple[Extent, Extent]] = []
        """Sizes that views take to be the same."""
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
        if recurrent(group.last) or scattering(group.last):
            made = recurrent_kernels if recurrent(group.last) else scatter_kernels
            for kernel in made(group.last, self.machine):
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
        sizes = count(shape_of(source)), count(shape_of(out))
        self.equal += [sizes] if sizes[0] != sizes[1] else []
        return True

    def _plain_operands(self, group: Group) -> None:
        """Anchors but convolutions read plain operands."""
        if group.nodes[0].op in ("Conv", "ConvTranspose"):
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
            form = Form(shape_of(value), dtype_of(value))
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
        emitter = Emitter(self.module, self.graph, self.calls, self.sizes, outputs, params, plan)
        emitter.run(self.name, self.equal)
        scratch = max((self.module.scratch.get(call.kernel.key, 0) for call in self.calls), default=0)
        return Program(self.name, plan, self.calls, params, emitter.symbols, scratch)
