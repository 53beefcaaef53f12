"""What is in a model: interface, operators, weights, arithmetic, and whether anything about it is broken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..ir.cost import total_flops, value_bytes
from ..ir.dims import Dim, dim_text
from ..ir.graph import Model
from ..ir.types import TensorType, type_text
from ..ir.verify import problems as broken_invariants
from .checks.validate import AnyModel, as_model
from .dims import input_symbols, with_dims
from .document import SCHEMA, Document, Table, Text, bytes_text, count_text


@dataclass
class Inspection:
    """A summary of one model."""

    source: str
    ir_version: int
    producer: str
    opsets: dict[str, int]
    inputs: list[dict[str, str]]
    outputs: list[dict[str, str]]
    nodes: int
    functions: int
    ops: dict[str, int]
    parameters: int
    """Elements of all constants."""
    constant_bytes: int
    constant_types: dict[str, int]
    """Bytes of constants by element type."""
    flops: str | None
    """Arithmetic operations of one run, a formula where dimensions are symbolic; each body counted once."""
    flops_unknown: int
    """Nodes whose shapes do not tell."""
    activation_bytes: str | None
    """Sum over all results: what one run writes."""
    untyped: int
    """Results whose type inference could not find."""
    symbols: list[str] = field(default_factory=list[str])
    """Extents of the inputs that are open: ``dims`` can fix them."""
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    problems: list[str] = field(default_factory=list[str])
    """Broken invariants, as the verifier says them."""

    def to_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    def document(self) -> Document:
        return list(_document(self))


def inspect(model: AnyModel, *, verify: bool = True, dims: Mapping[str, int] | None = None) -> Inspection:
    """Summarizes a model (a path, bytes, or a graph). Raises ``ReadError``; what is broken inside is reported.

    ``dims`` fixes symbols of the inputs, so that arithmetic and sizes become numbers.
    """
    graph, source = as_model(model)
    if dims:
        graph = with_dims(graph, dims)
    nodes = list(graph.all_nodes())
    constants = [v.data for g in graph.all_graphs() for v in g.constants if v.data is not None]
    types: Counter[str] = Counter()
    for data in constants:
        types[data.dtype.text] += data.nbytes
    operations, unknown = total_flops(nodes)
    results = [v for n in nodes for v in n.outputs]
    return Inspection(
        source.name if isinstance(source, Path) else "model",
        graph.ir_version,
        " ".join(filter(None, graph.producer)),
        dict(sorted(graph.opsets.items())),
        [{"name": v.name, "type": type_text(v.type)} for v in graph.graph.inputs],
        [{"name": p.name, "type": type_text(v.type)} for p, v in _outputs(graph)],
        len(nodes),
        len(graph.functions),
        dict(sorted(Counter(f"{n.domain}:{n.op}" if n.domain else n.op for n in nodes).items())),
        sum(data.count for data in constants),
        sum(types.values()),
        dict(sorted(types.items())),
        _text(operations),
        unknown,
        _total(results),
        sum(1 for v in results if v.type is None or (isinstance(v.type, TensorType) and v.type.dtype is None)),
        input_symbols(graph),
        dict(sorted(graph.metadata.items())),
        [str(p) for p in broken_invariants(graph)] if verify else [],
    )


def _outputs(model: Model) -> list[tuple[Any, Any]]:
    return list(zip(model.graph.ports, model.graph.outputs, strict=True))


def _total(values: list[Any]) -> str | None:
    from ..ir.dims import add

    total: Dim = 0
    for value in values:
        size = value_bytes(value)
        if size is not None:
            total = add(total, size)
    return _text(total)


def _text(total: Dim) -> str | None:
    """Numbers as they are; formulas that nobody could read are left out."""
    text = dim_text(total)
    return None if total is None or len(text) > 200 else text


def _document(i: Inspection) -> Document:
    opsets = ", ".join(f"{domain or 'ai.onnx'} {number}" for domain, number in i.opsets.items())
    by_type = ", ".join(f"{bytes_text(size)} {name}" for name, size in i.constant_types.items())
    document: Document = [
        Text(f"{i.source}: {i.nodes} nodes, {count_text(i.parameters)} parameters", "bold"),
        Text(f"  opsets     {opsets}; IR version {i.ir_version}; {i.producer or 'producer unknown'}"),
        Text(f"  constants  {bytes_text(i.constant_bytes)}" + (f" ({by_type})" if by_type else "")),
        Text(f"  arithmetic {_amount(i, i.flops, ' operations a run')}" + _unknown(i.flops_unknown)),
        Text(f"  results    {_amount(i, i.activation_bytes, ' bytes a run')}"),
        Table("inputs", ("name", "type"), [(v["name"], v["type"]) for v in i.inputs]),
        Table("outputs", ("name", "type"), [(v["name"], v["type"]) for v in i.outputs]),
    ]
    ops = sorted(i.ops.items(), key=lambda item: (-item[1], item[0]))
    document.append(Table("operators", ("operator", "nodes>"), [(op, str(count)) for op, count in ops]))
    document.append(Text(""))
    if i.functions:
        document.append(Text(f"{i.functions} functions"))
    if i.untyped:
        document.append(Text(f"{i.untyped} results have a type that inference cannot find", "yellow"))
    document.extend(Text(p, "red") for p in i.problems)
    if not i.problems:
        document.append(Text("no invariant is broken", "green"))
    return document


def _amount(i: Inspection, text: str | None, unit: str) -> str:
    if text is None:
        fix = " ".join(f"--dim '{name}=...'" for name in i.symbols)
        return f"a long formula; for a number fix {fix}" if fix else "unknown"
    return (count_text(float(text)) if text.isdigit() else text) + unit


def _unknown(count: int) -> str:
    return f", {count} nodes unknown" if count else ""
