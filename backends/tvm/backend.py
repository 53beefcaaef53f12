"""The backend object: legalize, lower, run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...ir.clone import clone_model
from ...ir.dims import SymDim, dim_text, symbol
from ...ir.errors import BackendError
from ...ir.graph import Graph, Model, Node, Value
from ...passes.shared.decompose import has_decomposition
from ...passes.target import Target
from ..core import Outputs, Sample
from .artifact import Artifact, Built, make_manifest
from .kernels.machine import Machine
from .lower.blocked import keep_blocked, on_integers
from .lower.extents import USUAL
from .lower.integers import expand_linear, fold_dequantizers
from .lower.program import Module, Program
from .lower.settle import settle_extents
from .partition import Piece, partition, why_not
from .tune.choose import shipped


class TvmBackend:
    """Apache TVM: kernels of our own, ONNX Runtime for what they cannot compute."""

    name = "tvm"

    def legalize(self, model: Model, target: Target) -> str:
        """Pipeline text that decomposes operators without a rule, where planish knows how; ``none`` without any."""
        wanted: set[str] = set()
        for node in model.graph:
            full = f"{node.domain}::{node.op}" if node.domain else node.op
            known = full in wanted or has_decomposition(node.domain, node.op, node.version)
            if known and why_not(node) is not None:
                wanted.add(full)
        names = ", ".join(f'"{name}"' for name in sorted(wanted))
        steps = ["lower-einsum,clean"] if any(node.op == "Einsum" for node in model.graph) else []
        steps += [f"expand-fused{{ops=[{names}]}},clean"] if names else []
        return ",".join(steps) or "none"

    def lower(self, model: Model, target: Target, *, pipeline: str = "", source: str | None = None) -> Artifact:
        """The artifact of a legalized model; the model is not changed. Extents may be symbols, but for GPUs.

        Raises ``BackendError`` for open extents that have no name of their own.
        """
        machine = Machine(target, shipped(Machine(target)).tile)
        model, pieces = readied(model, machine)
        module = Module(machine)
        programs = {
            i: module.lower(piece.model.graph, "main" if len(pieces) == 1 else f"main{i}")
            for i, piece in enumerate(pieces)
            if piece.backend == "tvm"
        }
        executable: Any = module.build() if programs else None
        steps = [] if len(pieces) == 1 and programs else [_step(i, p, programs.get(i)) for i, p in enumerate(pieces)]
        manifest = make_manifest(model, target, module.weights.arrays, steps, pipeline=pipeline, source=source)
        manifest["symbols"] = [] if steps else _texts(programs[0].symbols)
        manifest["memory"] = {program.name: _memory(program) for program in programs.values()}
        models = {i: piece.model for i, piece in enumerate(pieces) if piece.backend == "ort"}
        return Artifact(manifest, Built(executable, module.weights.arrays, models, target))

    def run(self, model: Model | bytes, inputs: Sample) -> Outputs:
        """Lowers and runs a model on this machine, its extents those of the inputs. Raises ``BackendError``."""
        from ...ir.onnx_reader import read_model
        from ...passes.target import get_target

        graph = clone_model(model) if isinstance(model, Model) else read_model(model)
        target = replace(get_target("native"), runtime="tvm", contrib=False)
        return self.lower(graph, target).run(inputs)


def readied(model: Model, machine: Machine) -> tuple[Model, list[Piece]]:
    """A copy of a legalized model as it is lowered, and its pieces. Raises ``BackendError`` for open extents that
    kernels cannot be made for."""
    model = _with_fixed_defaults(clone_model(model))
    _require_named(model, fixed=machine.is_gpu)
    _separate_outputs(model.graph)
    for node in reversed(list(model.graph)):
        if not any(out.uses for out in node.outputs):
            node.erase()
    settle_extents(model.graph)
    expand_linear(model.graph)
    if not machine.is_gpu:  # which has no kernels for them
        keep_blocked(model.graph)
    fold_dequantizers(model.graph, (lambda _: False) if machine.is_gpu else on_integers)
    return model, partition(model, gpu=machine.is_gpu)


def _step(i: int, piece: Piece, program: Any) -> dict[str, Any]:
    common: dict[str, Any] = {"backend": piece.backend, "inputs": piece.inputs, "outputs": piece.outputs}
    if program is not None:
        return common | {"function": program.name, "params": program.params, "symbols": _texts(program.symbols)}
    return common | {"file": f"piece{i}.onnx", "reasons": piece.reasons}


def _texts(symbols: list[str]) -> list[str]:
    """As shapes in the manifest have them."""
    return [dim_text(symbol(name)) for name in symbols]


def _memory(program: Program) -> dict[str, Any]:
    """Planned bytes; of open extents, what they were planned for."""
    found: dict[str, Any] = {"arena_bytes": program.plan.arena_bytes, "live_bytes": program.plan.bound_bytes}
    return found | {"with": dict.fromkeys(_texts(program.symbols), USUAL)} if program.symbols else found


def _with_fixed_defaults(model: Model) -> Model:
    """The model with inputs that have a default as constants: callers cannot override them."""
    if not model.graph.defaults:
        return model
    graph = model.graph
    for value, data in list(graph.defaults.items()):
        constant = graph.add_constant(data, value.name)
        for user, i in list(value.uses):
            user.set_input(i, constant)
        graph.remove_input(value)
    return model


def _separate_outputs(graph: Graph) -> None:
    """Makes every output a node's own result: pieces hand values on by name, and an input, a constant or a value that
    is returned twice has no name for each."""
    seen: set[Value] = set()
    made: list[Value] = []
    for value in graph.outputs:
        if value.producer is None or value in seen:
            node = Node("Identity", [value], outputs=[value.name])
            graph.append(node)
            node.output.type = value.type
            value = node.output
        seen.add(value)
        made.append(value)
    graph.set_outputs(made, [port.name for port in graph.ports])


def _require_named(model: Model, *, fixed: bool) -> None:
    """Raises ``BackendError`` for open extents that are no symbols, which nothing at run time could tell; for all where
    they have to be ``fixed``."""
    for value in model.graph.inputs:
        for dim in (None,) if value.shape is None else value.shape:
            if isinstance(dim, int) or (not fixed and isinstance(dim, SymDim) and dim.name is not None):
                continue
            names = sorted(dim.symbols()) if isinstance(dim, SymDim) else []
            raise BackendError(
                f"input {value.name} has an open extent: {value.type}",
                where="tvm",
                help="fix it: " + (" ".join(f"--dim {name}=..." for name in names) or "export the model with a shape"),
            )
