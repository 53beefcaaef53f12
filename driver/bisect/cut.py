"""Parts of a model that run on their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ...backends.core import Array, Sample
from ...ir.clone import clone_model
from ...ir.constants import ArrayConstant
from ...ir.dims import Dim, SymDim
from ...ir.dtypes import from_numpy
from ...ir.errors import PlanishError
from ...ir.graph import Graph, Model, Port, Value
from ...ir.infer import infer_model
from ...ir.types import TensorType


@dataclass
class Situation:
    """A model with samples on which it is run."""

    model: Model
    samples: list[Sample]


def keep_nodes(
    situation: Situation, keep: set[int], recorded: dict[Value, Array], *, constants: bool = False
) -> Situation | None:
    """The nodes of the main graph with these numbers alone, on the first sample.

    What the others computed becomes an input, or with ``constants`` a constant. ``None`` where a value that is needed
    was not recorded, or nothing is left.
    """
    source, sample = situation.model, dict(situation.samples[0])
    copy = clone_model(source)
    graph = copy.graph
    old_ports = list(zip(graph.ret.inputs, graph.ports, strict=True))
    graph.ret.set_inputs([])
    taken = {v.name for v in graph.inputs}
    pairs = list(enumerate(zip(list(source.graph), list(graph), strict=True)))
    for i, (old, new) in reversed(pairs):  # what is still used then is used by nodes that stay
        if i in keep:
            continue
        for before, after in zip(old.outputs, new.outputs, strict=True):
            if not after.uses:
                continue
            array = recorded.get(before)
            if array is None:
                return None
            name = _fresh(before.name or f"cut{i}", taken)
            after.replace_uses(_substitute(graph, before, array, name, constant=constants))
            if not constants:
                sample[name] = array
        new.erase()
    return _finished(copy, old_ports, [sample])


def _fresh(stem: str, taken: set[str]) -> str:
    name, n = stem, 1
    while name in taken:
        n += 1
        name = f"{stem}_{n}"
    taken.add(name)
    return name


def _substitute(graph: Graph, old: Value, array: Array, name: str, *, constant: bool) -> Value:
    if constant:
        return graph.add_constant(ArrayConstant(array), name)
    declared = old.shape if old.shape is not None and len(old.shape) == array.ndim else (None,) * array.ndim
    shape = tuple(_plain(d, n) for d, n in zip(declared, array.shape, strict=True))
    return graph.add_input(name, TensorType(from_numpy(array.dtype), shape))


def _plain(d: Dim, size: int) -> Dim:
    """An extent as an interface can state it: a number or a bare symbol."""
    return d if isinstance(d, SymDim) and d.name is not None and not d.name.startswith("?") else size


def _finished(model: Model, old_ports: Iterable[tuple[Value | None, Port]], samples: list[Sample]) -> Situation | None:
    """Outputs are the old ones that are left, and what nothing uses any more; types are inferred anew."""
    graph = model.graph
    outputs: dict[Value, str] = {}
    for value, port in old_ports:
        if value is not None and not (value.producer is not None and value.producer.erased):
            outputs.setdefault(value, port.name)
    taken = {*outputs.values(), *(v.name for v in graph.inputs)}
    for node in graph:
        if not any(out.uses or out in outputs for out in node.outputs):
            outputs[node.output] = _fresh(node.output.name or "out", taken)
    if not outputs:
        return None
    graph.set_outputs(outputs, outputs.values())
    return retyped(model, samples)


def retyped(model: Model, samples: Sequence[Sample]) -> Situation | None:
    """The model with types inferred from its inputs alone; ``None`` where it is not valid."""
    for graph in model.all_graphs():
        for node in graph:
            for out in node.outputs:
                out.known = None
                if node.domain in ("", "com.microsoft"):
                    out.type = None
        for constant in list(graph.constants):
            if not constant.uses:
                graph.remove_constant(constant)
    try:
        infer_model(model)
    except PlanishError:
        return None
    for port, value in zip(model.graph.ports, model.graph.outputs, strict=True):
        port.declared = value.type
    return Situation(model, list(samples))


def tidied(situation: Situation) -> Iterator[Situation | None]:
    """Without all that nothing uses, or, where the failure needs some of it, without one kind or one thing of it."""
    model = situation.model
    called = {(n.domain, n.op, n.overload) for n in model.all_nodes()}
    inputs = {v.name for v in model.graph.inputs if not v.uses}
    functions = {key for key in model.functions if key not in called}
    about = bool(model.metadata or model.extra or model.doc)
    if inputs or functions or about:
        yield _without(situation, inputs, functions, about=True)
    if inputs:
        yield _without(situation, inputs, set())
    for key in sorted(functions):
        yield _without(situation, set(), {key})
    if about:
        yield _without(situation, set(), set(), about=True)


def _without(
    situation: Situation, inputs: set[str], functions: set[tuple[str, str, str]], *, about: bool = False
) -> Situation | None:
    """Without those inputs and functions; with ``about`` also without what the file says about itself."""
    copy = clone_model(situation.model)
    for value in list(copy.graph.inputs):
        if value.name in inputs:
            copy.graph.remove_input(value)
    for key in functions:
        del copy.functions[key]
    if about:
        copy.metadata, copy.extra, copy.doc = {}, None, ""
    domains = {n.domain for n in copy.all_nodes()} | {""}
    for domain in [d for d in copy.graph.opsets if d not in domains]:
        del copy.graph.opsets[domain]
    samples = [{k: v for k, v in s.items() if k not in inputs} for s in situation.samples]
    return retyped(copy, samples)
