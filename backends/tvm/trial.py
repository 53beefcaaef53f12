"""Variants of one model run in this process, to be timed beside each other: kernels that they share are compiled once,
and nothing is linked or written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...ir.dims import Dim, SymDim
from ...ir.graph import Model
from ...passes.target import Target
from ..core import Outputs, Sample
from .api import relax, tvm
from .kernels.machine import Machine
from .loader.planish_model import Processor, call
from .lower.kernels import Kernel
from .lower.program import Module
from .partition import Piece
from .ready import readied
from .tune.choose import informed

Run = Callable[[Sample], Outputs]


@dataclass
class _Kernels:
    """Machine code of kernels by what makes them equal."""

    names: dict[tuple[str, tuple[str, ...], bool], str] = field(default_factory=dict[Any, str])
    waiting: dict[str, Any] = field(default_factory=dict[str, Any])
    """Functions that are not compiled yet."""
    libraries: list[Any] = field(default_factory=list[Any])

    def compile(self, machine: Machine) -> None:
        if self.waiting:
            functions = {tvm.ir.GlobalVar(name): made for name, made in self.waiting.items()}
            self.libraries.append(tvm.compile(tvm.IRModule(functions), target=machine.target()))
            self.waiting = {}


class _Module(Module):
    """A program whose kernels lie in libraries of their own."""

    def __init__(self, machine: Machine, kernels: _Kernels) -> None:
        super().__init__(machine)
        self.kernels = kernels

    def function(self, kernel: Kernel, overwrites: bool) -> Any:
        key = (kernel.key, tuple(kernel.atoms), overwrites)
        names = self.kernels.names
        if key not in names:
            names[key] = f"kernel{len(names)}"
            self.kernels.waiting[names[key]] = self.made(kernel, overwrites, names[key])
        return relax.ExternFunc(names[key])


def threads() -> int:
    """Threads that a run takes."""
    return int(tvm.runtime.num_threads())


class Trials:
    """Builds what :class:`TvmBackend` would, for this machine only."""

    def __init__(self, target: Target, session: Callable[[Model], Run]) -> None:
        """``session`` runs the pieces that TVM cannot."""
        self.machine = informed(target)
        self.session = session
        self.kernels = _Kernels()

    def runner(self, model: Model) -> Run:
        """Runs a legalized model. Raises ``BackendError`` for what cannot be built."""
        model, pieces = readied(model, self.machine, flow=False)
        module = _Module(self.machine, self.kernels)
        shapes = [[value.shape or () for value in piece.model.graph.inputs] for piece in pieces]
        programs = [
            module.lower(piece.model.graph, f"main{i}") if piece.backend == "tvm" else None
            for i, piece in enumerate(pieces)
        ]
        self.kernels.compile(self.machine)
        virtual_machine: Any = self._loaded(module) if any(programs) else None
        weights = [Processor().tensor(array) for array in module.weights.arrays]
        names = [port.name for port in model.graph.ports]
        steps: list[tuple[Callable[[dict[str, Any]], Any], list[str]]] = []
        for i, (piece, program) in enumerate(zip(pieces, programs, strict=True)):
            if program is None:
                run = _with_inputs(self.session(piece.model), piece.inputs)
            else:
                own = [weights[i] for i in program.params]
                run = _function(virtual_machine[program.name], piece, shapes[i], own, program.symbols)
            steps.append((run, piece.outputs))

        def whole(sample: Sample) -> Outputs:
            values: dict[str, Any] = dict(sample)
            for run, outputs in steps:
                values.update(zip(outputs, run(values), strict=True))
            return [values[name] for name in names]

        return whole

    def _loaded(self, module: Module) -> Any:
        executable: Any = module.build()
        for library in self.kernels.libraries:
            executable.mod.import_module(library.mod)
        return relax.VirtualMachine(executable.mod, tvm.cpu())  # not of ``executable`` itself, which links first


def _function(
    function: Any, piece: Piece, shapes: list[tuple[Dim, ...]], weights: list[Any], symbols: list[str]
) -> Callable[[dict[str, Any]], Any]:
    """Calls a program with the extents that its inputs have."""
    processor = Processor()

    def run(values: dict[str, Any]) -> Any:
        arrays = [values[name] for name in piece.inputs]
        found: dict[str, int] = {}
        for array, shape in zip(arrays, shapes, strict=True):
            for dim, extent in zip(shape, array.shape, strict=True):
                if isinstance(dim, SymDim) and dim.name is not None:
                    found[dim.name] = int(extent)
        return call(function, arrays, weights, processor, [found[name] for name in symbols])

    return run


def _with_inputs(run: Run, inputs: list[str]) -> Callable[[dict[str, Any]], Any]:
    return lambda values: run({name: values[name] for name in inputs})
