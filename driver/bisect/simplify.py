"""Simpler versions of a model, each by one step; every step makes it smaller or plainer, so that they come to an end.

The steps know nothing about operators beyond their schemas: most candidates are wrong, and the caller's test finds out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...backends.core import Array
from ...ir.clone import clone_model
from ...ir.constants import ArrayConstant
from ...ir.dims import SymDim, substitute
from ...ir.graph import Graph, Model, Node, Value
from ...ir.ops import node_schema
from ...ir.types import TensorType
from .cut import Situation, retyped

BYPASS_DEPTH = 3
"""How far up values are looked for that may stand in for a result."""
MAX_BODY_NODES = 200
"""Bodies with more nodes are not simplified node by node."""


def candidates(s: Situation) -> Iterator[Situation | None]:
    """One step each, the most promising first."""
    yield from _without_outputs(s)
    yield from _without_dead(s)
    yield from _bypassed(s, sweep=True)
    yield from _bypassed(s, sweep=False)
    yield from _inner_replaced(s)
    yield from _fixed_symbols(s)
    yield from _smaller_extents(s)
    yield from _without_operands(s)
    yield from _plainer_attributes(s)
    yield from _plainer_constants(s)
    yield from _without_defaults(s)


def _edited(
    s: Situation, edit: Callable[[Model], bool], samples: list[Any] | None = None, *, sweep: bool = True
) -> Situation | None:
    """A copy with one edit; ``None`` where the edit does not apply or the result is not valid."""
    copy = clone_model(s.model)
    if not edit(copy):
        return None
    if sweep:
        _sweep(copy)
    if not copy.graph.outputs:
        return None
    return retyped(copy, s.samples if samples is None else samples)


def _sweep(model: Model) -> None:
    """Nodes that nothing uses go, except that a graph keeps what it returns."""
    for graph in [model.graph, *model.graph.all_graphs()]:
        for node in reversed(list(graph)):
            if not node.erased and not any(out.uses for out in node.outputs):
                node.erase()


# -- outputs


def _without_outputs(s: Situation) -> Iterator[Situation | None]:
    ports = s.model.graph.ports
    if len(ports) < 2:
        return
    for i in range(len(ports)):  # one alone
        yield _with_outputs(s, [i])
    for i in range(len(ports)):
        yield _with_outputs(s, [k for k in range(len(ports)) if k != i])


def _with_outputs(s: Situation, keep: list[int]) -> Situation | None:
    def edit(model: Model) -> bool:
        graph = model.graph
        values, names = [graph.outputs[i] for i in keep], [graph.ports[i].name for i in keep]
        graph.set_outputs(values, names)
        return True

    return _edited(s, edit)


# -- nodes


def _without_dead(s: Situation) -> Iterator[Situation | None]:
    """A node that nothing uses; most steps take those along, but some failures are about them."""
    for place, node in enumerate(_nodes(s.model)):
        if not any(out.uses for out in node.outputs):
            yield _edited(s, lambda m, p=place: _erase(m, p), sweep=False)


def _erase(model: Model, place: int) -> bool:
    _nodes(model)[place].erase()
    return True


def _bypassed(s: Situation, *, sweep: bool) -> Iterator[Situation | None]:
    """A node's result replaced by a value of the same type that it is computed from; in bodies and functions too."""
    for place, node in enumerate(_nodes(s.model)):
        used = [out for out in node.outputs if out.uses]
        if len(used) != 1:
            continue
        for way in _ways_to(node, used[0]):
            yield _edited(s, lambda m, p=place, w=way, k=used[0].index: _bypass(m, p, w, k), sweep=sweep)


def _ways_to(node: Node, like: Value) -> list[tuple[int, ...]]:
    """Operand numbers that lead up to values of the same type, longest ways first."""
    found: list[tuple[int, ...]] = []
    level: list[tuple[tuple[int, ...], Node]] = [((), node)]
    for _ in range(BYPASS_DEPTH):
        above: list[tuple[tuple[int, ...], Node]] = []
        for way, at in level:
            for i, operand in enumerate(at.inputs):
                if operand is None:
                    continue
                if operand.type == like.type and like.type is not None:
                    found.append((*way, i))
                if operand.producer is not None and operand.producer.graph is node.graph:
                    above.append(((*way, i), operand.producer))
        level = above[:8]
    return found[::-1]


def _bypass(model: Model, place: int, way: tuple[int, ...], k: int) -> bool:
    node = _nodes(model)[place]
    value, at = node.outputs[k], node
    for i in way:
        operand = at.inputs[i]
        assert operand is not None
        value = operand
        if operand.producer is not None:
            at = operand.producer
    node.outputs[k].replace_uses(value)
    return True


def _inner_replaced(s: Situation) -> Iterator[Situation | None]:
    """A result inside a body replaced by a constant of ones of its extents."""
    for place, node in enumerate(_nodes(s.model)):
        graph = node.graph
        if graph is None or graph.parent is None:
            continue
        for out in node.outputs:
            t = out.type
            if out.uses and isinstance(t, TensorType) and t.is_static and t.dtype is not None:
                yield _edited(s, lambda m, p=place, k=out.index: _replace_inner(m, p, k))


def _replace_inner(model: Model, place: int, k: int) -> bool:
    out = _nodes(model)[place].outputs[k]
    t = out.tensor
    assert t is not None
    assert t.dtype is not None
    ones = np.ones([d for d in t.shape or () if isinstance(d, int)]).astype(t.dtype.numpy)
    out.replace_uses(model.graph.add_constant(ArrayConstant(ones, t.dtype), out.name or "one"))
    return True


def _nodes(model: Model) -> list[Node]:
    found = list(model.all_nodes())
    return found if len(found) <= MAX_BODY_NODES else list(model.graph)


def _without_operands(s: Situation) -> Iterator[Situation | None]:
    """Optional operands and unused results at the end."""
    for place, node in enumerate(_nodes(s.model)):
        schema = node_schema(node)
        last = len(node.inputs) - 1
        if schema is not None and 0 < last < len(schema.inputs) and schema.inputs[last].optional:
            yield _edited(s, lambda m, p=place: _drop_operand(m, p))
        if len(node.outputs) > 1 and not node.outputs[-1].uses and not node.subgraphs:
            yield _edited(s, lambda m, p=place: _drop_result(m, p))


def _drop_operand(model: Model, place: int) -> bool:
    node = _nodes(model)[place]
    node.set_inputs(node.inputs[:-1])
    return True


def _drop_result(model: Model, place: int) -> bool:
    del _nodes(model)[place].outputs[-1]
    return True


def _plainer_attributes(s: Situation) -> Iterator[Situation | None]:
    for place, node in enumerate(_nodes(s.model)):
        schema = node_schema(node)
        for name in node.attrs:
            spec = schema.attrs.get(name) if schema is not None else None
            if spec is not None and not spec.required and not isinstance(node.attrs[name], Graph):
                yield _edited(s, lambda m, p=place, n=name: _nodes(m)[p].attrs.pop(n, None) is not None)


# -- extents


def _fixed_symbols(s: Situation) -> Iterator[Situation | None]:
    """A symbol of the inputs replaced by its size in the samples, where they agree."""
    names = sorted(
        {n for v in s.model.graph.inputs for d in v.shape or () if isinstance(d, SymDim) for n in d.symbols()}
    )
    for name in names:
        sizes = {
            sample[v.name].shape[i]
            for v in s.model.graph.inputs
            for i, d in enumerate(v.shape or ())
            if isinstance(d, SymDim) and d.name == name
            for sample in s.samples
            if v.name in sample
        }
        if len(sizes) == 1:
            size = sizes.pop()
            yield _edited(s, lambda m, name=name, size=size: _fix(m, name, size))


def _fix(model: Model, name: str, size: int) -> bool:
    for graph in model.all_graphs():
        for value in graph.inputs:
            t = value.tensor
            if t is not None and t.shape is not None:
                value.type = t.with_shape(tuple(substitute(d, {name: size}) for d in t.shape))
    return True


def _smaller_extents(s: Situation) -> Iterator[Situation | None]:
    """Every extent of one size made smaller everywhere: inputs, constants, and numbers in shape constants."""
    sizes = {d for v in s.model.graph.inputs for d in v.shape or () if isinstance(d, int) and d > 1}
    sizes |= {d for g in s.model.all_graphs() for v in g.constants if v.data is not None for d in v.data.shape if d > 1}
    for size in sorted(sizes, reverse=True):
        for smaller in sorted({1, 2, size // 2, size - 1} & set(range(1, size))):
            samples = [{k: _shrunk(a, size, smaller) for k, a in sample.items()} for sample in s.samples]
            yield _edited(s, lambda m, a=size, b=smaller: _shrink(m, a, b), samples)


def _shrunk(array: Array, size: int, smaller: int) -> Array:
    return np.asarray(array[tuple(slice(smaller) if d == size else slice(None) for d in array.shape)])


def _shrink(model: Model, size: int, smaller: int) -> bool:
    for graph in model.all_graphs():
        for value in graph.inputs:
            t = value.tensor
            if t is not None and t.shape is not None:
                value.type = t.with_shape(tuple(smaller if d == size else d for d in t.shape))
        for value in graph.constants:
            if value.data is None:
                continue
            array = _shrunk(value.data.numpy(), size, smaller)
            if array.dtype.kind == "i" and array.size <= 8 and array.ndim <= 1:
                array = np.where(array == size, smaller, array).astype(array.dtype)
            value.data = ArrayConstant(array, value.data.dtype)
            value.type = value.data.type
        graph.defaults.clear()
    return True


# -- constants


def _plainer_constants(s: Situation) -> Iterator[Situation | None]:
    """Numbers replaced by ones, by small integers, by fewer digits."""
    for g, graph in enumerate(s.model.all_graphs()):
        for i, value in enumerate(graph.constants):
            data = value.data
            if data is None or not data.dtype.is_float or data.count > 1 << 16:
                continue
            array = np.asarray(data.numpy())
            for plain in _plainer(array):
                if _effort(plain) < _effort(array):
                    yield _edited(s, lambda m, g=g, i=i, a=plain: _set_constant(m, g, i, a))


def _plainer(array: Array) -> Iterator[Array]:
    yield np.ones_like(array)
    yield np.full_like(array, 2)
    yield (np.arange(array.size).reshape(array.shape) % 5 + 1).astype(array.dtype)
    with np.errstate(all="ignore"):
        yield np.round(array.astype(np.float64), 1).astype(array.dtype)


def _effort(array: Array) -> int:
    """How much there is to read in a constant."""
    flat = array.astype(np.float64).reshape(-1)
    if flat.size == 0:
        return 0
    if (flat == 1).all():
        return 0
    if (flat == flat[0]).all() and flat[0] == 2:
        return 1
    if (flat == np.round(flat)).all():
        return 2
    return 3 if (flat.astype(array.dtype) == np.round(flat, 1).astype(array.dtype)).all() else 4


def _set_constant(model: Model, g: int, i: int, array: Array) -> bool:
    graph = list(model.all_graphs())[g]
    value = list(graph.constants)[i]
    assert value.data is not None
    value.data = ArrayConstant(array, value.data.dtype)
    return True


def _without_defaults(s: Situation) -> Iterator[Situation | None]:
    """Inputs with a default become constants."""
    for i, value in enumerate(s.model.graph.inputs):
        if value in s.model.graph.defaults:
            samples = [{k: a for k, a in sample.items() if k != value.name} for sample in s.samples]
            yield _edited(s, lambda m, i=i: _constant_default(m, i), samples)


def _constant_default(model: Model, i: int) -> bool:
    value: Value = model.graph.inputs[i]
    value.replace_uses(model.graph.add_constant(model.graph.defaults[value], value.name))
    model.graph.remove_input(value)
    return True
