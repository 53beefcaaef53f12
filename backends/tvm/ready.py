"""Models as they are lowered: extents settled, integer products found, bodies apart, and cut into pieces."""

from __future__ import annotations

from functools import partial

from ...ir.clone import clone_model
from ...ir.dims import SymDim
from ...ir.errors import BackendError
from ...ir.graph import Graph, Model, Node, Value
from .flow import closed_bodies
from .kernels.machine import Machine
from .lower.blocked import keep_blocked, on_integers
from .lower.integers import expand_linear, fold_dequantizers
from .lower.recurrent import make_time_major
from .lower.settle import settle_extents
from .partition import ORT, TVM, Body, Piece, partition, refusals
from .rules.core import Unsupported


def readied(model: Model, machine: Machine, *, flow: bool = True) -> tuple[Model, list[Piece]]:
    """A copy of a legalized model as it is lowered, and its pieces; without ``flow`` ONNX Runtime runs what has bodies.

    Raises ``BackendError`` for open extents that kernels cannot be made for.
    """
    model = _with_fixed_defaults(clone_model(model))
    _require_named(model, fixed=machine.is_gpu)
    return model, _pieces(model, machine, flow)


def left_to_ort(graph: Graph, machine: Machine) -> dict[Node, str]:
    """Nodes that ONNX Runtime runs, and why; those of bodies are part of the node that has them."""
    return refusals(graph, partial(bodies_inside, machine=machine), gpu=machine.is_gpu)[0]


def bodies_inside(node: Node, machine: Machine) -> list[Body]:
    """The bodies of a node that loaders run. Raises ``Unsupported``.

    All that is inside what runs in turns has to be kernels: a change to ONNX Runtime and back in each would cost more
    than they save. Of a branch it is enough that one has any.
    """
    bodies = [Body(model, _pieces(model, machine, True), captured) for model, captured in closed_bodies(node)]
    pieces = [piece for body in bodies for piece in body.pieces]
    left = {op: why for piece in pieces if piece.backend == ORT for op, why in piece.reasons.items()}
    if left and (node.op != "If" or not any(piece.backend == TVM for piece in pieces)):
        raise Unsupported("in its body: " + "; ".join(f"{op}: {why}" for op, why in left.items()))
    return bodies


def _pieces(model: Model, machine: Machine, flow: bool) -> list[Piece]:
    graph = model.graph
    _separate_outputs(graph)
    for node in reversed(list(graph)):
        if not any(out.uses for out in node.outputs):
            node.erase()
    settle_extents(graph)
    make_time_major(graph)
    expand_linear(graph)
    if not machine.is_gpu:  # which has no kernels for them
        keep_blocked(graph)
    fold_dequantizers(graph, (lambda _: False) if machine.is_gpu else on_integers)
    return partition(model, partial(bodies_inside, machine=machine) if flow else _none_inside, gpu=machine.is_gpu)


def _none_inside(_: Node) -> list[Body]:
    raise Unsupported("it has a body")


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
