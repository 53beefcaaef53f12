"""A digest of what a model computes and how its values are called."""

from __future__ import annotations

import hashlib
from typing import Any

from ...ir.constants import Constant
from ...ir.graph import Graph, Model, Value
from ...passes.shared.quant.statistics import value_names


def model_digest(model: Model) -> str:
    """Hex, 32 characters. Equal for models with equal nodes, constants, functions and names of values; types, and how
    values are to be stored, are not part of it. Weights are hashed once, however often it is asked for."""
    state = hashlib.blake2b(digest_size=16)
    names = value_names(model)
    numbers: dict[Graph, int] = {graph: i for i, graph in enumerate(model.all_graphs())}

    def operand(value: Value | None) -> str:
        if value is None:
            return "-"
        return f"c:{value.data.digest()}" if value.data is not None else f"v:{names.get(value, value.name)!r}"

    def attr(found: Any) -> str:
        if isinstance(found, Constant):
            return found.digest()
        if isinstance(found, Graph):
            return f"g:{numbers[found]}"
        if isinstance(found, tuple):
            return "[" + ",".join(map(attr, found)) + "]"  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        return repr(found) if not hasattr(found, "kind") else f"ref:{vars_of(found)}"

    def line(*parts: Any) -> None:
        state.update("\0".join(map(str, parts)).encode() + b"\n")

    for key, function in model.functions.items():
        line("function", *key, numbers[function.graph], [(k, attr(v)) for k, v in sorted(function.defaults.items())])
    for graph, number in numbers.items():
        line("graph", number, sorted(graph.opsets.items()), [names[v] for v in graph.inputs])
        line("defaults", [(names[v], data.digest()) for v, data in graph.defaults.items()])
        for node in graph:
            line(
                node.domain, node.op, node.overload, *map(operand, node.inputs), "->", *(names[v] for v in node.outputs)
            )
            line(*(f"{key}={attr(node.attrs[key])}" for key in sorted(node.attrs)))
        line("return", *map(operand, graph.ret.inputs))
    return state.hexdigest()


def vars_of(reference: Any) -> str:
    """An attribute that refers to the caller's."""
    return f"{getattr(reference, 'name', '')}:{reference.kind}"
