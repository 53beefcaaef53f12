"""The backend object: legalize, lower, run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ...ir.clone import clone_model
from ...ir.dims import dim_text, symbol
from ...ir.graph import Model, Node
from ...ir.ops import function_of
from ...passes.context import Context
from ...passes.manager import Pipeline
from ...passes.shared.decompose import has_decomposition
from ...passes.target import Target
from ..core import Outputs, Sample
from .artifact import Artifact, Built, make_manifest, piece_name
from .flow import flow_spec
from .lower.extents import USUAL
from .lower.program import Module, Program
from .partition import ORT, TVM, Body, Piece, why_not
from .ready import readied
from .tune.choose import informed

INLINE = "inline-functions,clean"


class TvmBackend:
    """Apache TVM: kernels of our own, ONNX Runtime for what they cannot compute."""

    name = "tvm"

    def legalize(self, model: Model, target: Target) -> str:
        """Pipeline text that makes calls of functions their bodies, and decomposes operators without a rule, where
        planish knows how; ``none`` where there are neither."""
        steps: list[str] = []
        known: set[str] = set()
        while text := _legal_step(model, known):  # what operators are decomposed into may want it again
            model = model if steps else clone_model(model)
            Pipeline(text).run(model, Context(target=target))
            steps.append(text)
        return ",".join(steps) or "none"

    def lower(
        self,
        model: Model,
        target: Target,
        *,
        pipeline: str = "",
        source: str | None = None,
        schedules: Path | None = None,
    ) -> Artifact:
        """The artifact of a legalized model; the model is not changed. Extents may be symbols, but for GPUs.

        ``schedules``: a file with what was measured beyond what is shipped.

        Raises ``BackendError`` for open extents that have no name of their own.
        """
        machine = informed(target, schedules)
        model, pieces = readied(model, machine)
        alone = len(pieces) == 1 and pieces[0].backend == TVM
        module = Module(machine)
        lowering = _Lowering(module, "main" if alone else "")
        steps = lowering.steps(pieces)
        programs, weights = lowering.programs, module.weights.arrays
        executable: Any = module.build() if programs else None
        manifest = make_manifest(model, target, weights, [] if alone else steps, pipeline=pipeline, source=source)
        manifest["symbols"] = steps[0]["symbols"] if alone else []
        manifest["memory"] = {program.name: _memory(program) for program in programs}
        return Artifact(manifest, Built(executable, weights, lowering.models, target))

    def run(self, model: Model | bytes, inputs: Sample) -> Outputs:
        """Lowers and runs a model on this machine, its extents those of the inputs. Raises ``BackendError``."""
        from ...ir.onnx_reader import read_model
        from ...passes.target import get_target

        graph = clone_model(model) if isinstance(model, Model) else read_model(model)
        target = replace(get_target("native"), runtime="tvm", contrib=False)
        return self.lower(graph, target).run(inputs)


def _legal_step(model: Model, known: set[str]) -> str:
    """What makes a model more legal, or nothing; ``known`` are operators that were decomposed already."""
    if any(function_of(node) is not None for node in model.all_nodes()) and INLINE not in known:
        known.add(INLINE)
        return INLINE
    wanted: set[str] = set()
    for node in model.graph.all_nodes():
        full = f"{node.domain}::{node.op}" if node.domain else node.op
        if full in wanted or full in known or (node.graph is not model.graph and _unknown(node)):
            continue  # extents are unknown in branches that are never taken, most of all: no decomposition helps
        if node.op == "Einsum" or (has_decomposition(node.domain, node.op, node.version) and why_not(node) is not None):
            wanted.add(full)
    known |= wanted
    names = ", ".join(f'"{name}"' for name in sorted(wanted - {"Einsum"}))
    steps = ["lower-einsum,clean"] if "Einsum" in wanted else []
    return ",".join(steps + ([f"expand-fused{{ops=[{names}]}},clean"] if names else []))


def _unknown(node: Node) -> bool:
    """Whether extents that it works on are not known."""
    shapes = [v.shape for v in (*node.inputs, *node.outputs) if v is not None]
    return any(shape is None or None in shape for shape in shapes)


class _Lowering:
    """Pieces on their way to steps of the manifest; those of bodies lie in the step of their node."""

    def __init__(self, module: Module, name: str) -> None:
        """``name`` is that of the only program where there is one."""
        self.module, self.name = module, name
        self.programs: list[Program] = []
        self.models: list[Model] = []
        """What ONNX Runtime runs."""

    def steps(self, pieces: list[Piece]) -> list[dict[str, Any]]:
        return [self._step(piece) for piece in pieces]

    def _step(self, piece: Piece) -> dict[str, Any]:
        common: dict[str, Any] = {"backend": piece.backend, "inputs": piece.inputs, "outputs": piece.outputs}
        if piece.backend == TVM:
            program = self.module.lower(piece.model.graph, self.name or f"main{len(self.programs)}")
            self.programs.append(program)
            return common | {"function": program.name, "params": program.params, "symbols": _texts(program.symbols)}
        if piece.backend == ORT:
            self.models.append(piece.model)
            return common | {"file": piece_name(len(self.models) - 1), "reasons": piece.reasons}
        assert piece.node is not None
        bodies = [self._body(body, names) for body, names in zip(piece.bodies, piece.captured, strict=True)]
        return common | flow_spec(piece.node, [body.model for body in piece.bodies]) | {"bodies": bodies}

    def _body(self, body: Body, captured: list[str]) -> dict[str, Any]:
        graph = body.model.graph
        return {
            "inputs": [value.name for value in graph.inputs],
            "captured": captured,
            "outputs": [port.name for port in graph.ports],
            "steps": self.steps(body.pieces),
        }


def _texts(symbols: list[str]) -> list[str]:
    """As shapes in the manifest have them."""
    return [dim_text(symbol(name)) for name in symbols]


def _memory(program: Program) -> dict[str, Any]:
    """Planned bytes; of open extents, what they were planned for."""
    plan = program.plan
    found: dict[str, Any] = {"arena_bytes": plan.arena_bytes, "live_bytes": plan.bound_bytes}
    found["scratch_bytes"] = program.scratch_bytes
    return found | {"with": dict.fromkeys(_texts(program.symbols), USUAL)} if program.symbols else found
