"""Whether a node is what its operator's schema describes.

The verdict depends on the node's *signature* alone (operator, version, element types, attribute kinds), of
which a model has few, so verdicts are cached and a node costs about 3 us.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

from .dtypes import DType
from .graph import Function, Node, Value
from .onnx_proto import ANY_LIST, NOT_AN_ATTRIBUTE, attr_kind
from .schema import (
    FLOAT,
    FLOATS,
    GRAPH,
    GRAPHS,
    INT,
    INTS,
    SPARSE,
    SPARSES,
    STANDARD,
    STRING,
    STRINGS,
    TENSOR,
    TENSORS,
    TYPE,
    TYPES,
    Param,
    Schema,
    schema,
)
from .types import MapType, OptionalType, SequenceType, TensorType, Type

TypeKey: TypeAlias = "DType | str | int | None"
"""Of an operand: element type of a dense tensor, ONNX's spelling of another type, ``None`` unknown, 0 omitted."""

OMITTED = 0

_KIND_WORDS = {
    FLOAT: "a float",
    INT: "an int",
    STRING: "a string",
    TENSOR: "a tensor",
    GRAPH: "a graph",
    FLOATS: "floats",
    INTS: "ints",
    STRINGS: "strings",
    TENSORS: "tensors",
    GRAPHS: "graphs",
    SPARSE: "a sparse tensor",
    SPARSES: "sparse tensors",
    TYPE: "a type",
    TYPES: "types",
    ANY_LIST: "an empty list",
    NOT_AN_ATTRIBUTE: "an object that ONNX cannot hold",
}
_LISTS = frozenset((FLOATS, INTS, STRINGS, TENSORS, GRAPHS, SPARSES, TYPES))
_SPELLED = {
    DType.F32: "float",
    DType.F64: "double",
    DType.F16: "float16",
    DType.BF16: "bfloat16",
    DType.C64: "complex64",
    DType.C128: "complex128",
    DType.STRING: "string",
    DType.BOOL: "bool",
    DType.F8E4M3FN: "float8e4m3fn",
    DType.F8E4M3FNUZ: "float8e4m3fnuz",
    DType.F8E5M2: "float8e5m2",
    DType.F8E5M2FNUZ: "float8e5m2fnuz",
    DType.F4E2M1: "float4e2m1",
    DType.F8E8M0: "float8e8m0",
    **{d: d.numpy_name for d in DType if d.kind in ("int", "uint")},
}
"""ONNX's names of element types in type constraints."""
_BY_SPELLING = {f"tensor({text})": d for d, text in _SPELLED.items()}


def check_node(node: Node) -> str | None:
    """What is wrong with the node by the schema in force in its model, as one clause; ``None`` where nothing is.

    Looks at the number of operands and results, required, unknown and ill-typed attributes, and the
    operands' and results' element types where they are known, one type variable meaning one type.
    Operators of unknown domains have no schema and pass; calls of model-local functions are checked
    against the function.
    """
    graph = node.graph
    if graph is None:
        return "the node is in no graph"
    domain = node.domain
    if graph.model is not None and graph.model.functions:
        function = graph.model.functions.get((domain, node.op, node.overload))
        if function is not None:
            return _check_call(node, function)
    version = graph.opsets.get(domain)
    if version is None:
        imported = ", ".join(repr(d) for d in graph.opsets)
        return f"domain {domain!r} is not among the imported ones ({imported})"
    attrs = node.attrs
    return _verdict(
        domain,
        node.op,
        version,
        tuple([_key(v) for v in node.inputs]),
        tuple([_key(v) for v in node.outputs]),
        tuple([(name, attr_kind(a)) for name, a in attrs.items()]) if attrs else (),
    )


def _check_call(node: Node, function: Function) -> str | None:
    takes, gives = len(function.graph.inputs), len(function.graph.ports)
    if len(node.inputs) > takes:
        return f"{len(node.inputs)} operands, the function takes {takes}"
    if len(node.outputs) > gives:
        return f"{len(node.outputs)} results, the function gives {gives}"
    return None


# -- signatures


def _key(value: Value | None) -> TypeKey:
    if value is None:
        return OMITTED
    t = value.type
    if type(t) is TensorType and not t.sparse:
        return t.dtype
    return None if t is None else onnx_spelling(t)


def onnx_spelling(t: Type) -> str | None:
    """A type as type constraints spell it, ``seq(tensor(float))``; ``None`` where a part is unknown."""
    wraps: list[str] = []
    inner: Type | None = t
    while isinstance(inner, (SequenceType, OptionalType)):
        wraps.append("seq(" if isinstance(inner, SequenceType) else "optional(")
        inner = inner.element
    if isinstance(inner, MapType):
        of = inner.element
        if not isinstance(of, TensorType) or of.dtype is None:
            return None
        core = f"map({_SPELLED[inner.key]}, {_SPELLED[of.dtype]})"
    elif inner is None or inner.dtype is None:
        return None
    else:
        core = f"{'sparse_tensor' if inner.sparse else 'tensor'}({_SPELLED[inner.dtype]})"
    return "".join(wraps) + core + ")" * len(wraps)


# -- verdicts


@lru_cache(maxsize=1 << 15)
def _verdict(
    domain: str,
    op: str,
    version: int,
    inputs: tuple[TypeKey, ...],
    outputs: tuple[TypeKey, ...],
    attrs: tuple[tuple[str, int], ...],
) -> str | None:
    s = schema(domain, op, version)
    if s is None:
        return _missing(domain, op, version) if domain in STANDARD else _odd_attr(attrs)
    variables: dict[str, tuple[str, str]] = {}
    return (
        _wrong_count("operands", len(inputs), s.min_inputs, s.max_inputs)
        or _wrong_count("results", len(outputs), s.min_outputs, s.max_outputs)
        or _wrong_types("operand", s.inputs, inputs, variables)
        or _wrong_types("result", s.outputs, outputs, variables)
        or _wrong_attrs(s, attrs)
    )


def _missing(domain: str, op: str, version: int) -> str:
    newer = " (a newer version has)" if schema(domain, op, 1 << 20) is not None else ""
    return f"version {version} of domain {domain or 'ai.onnx'!r} has no operator {op}{newer}"


def _odd_attr(attrs: tuple[tuple[str, int], ...]) -> str | None:
    for name, kind in attrs:
        if kind == NOT_AN_ATTRIBUTE:
            return f"attribute {name} is {_KIND_WORDS[kind]}"
    return None


def _wrong_count(what: str, found: int, least: int, most: int) -> str | None:
    if least <= found <= most:
        return None
    expected = f"{least}" if least == most else f"{least} to {most}" if most < 1 << 20 else f"at least {least}"
    return f"{found} {what}, expected {expected}"


def _wrong_types(
    what: str, params: tuple[Param, ...], keys: tuple[TypeKey, ...], variables: dict[str, tuple[str, str]]
) -> str | None:
    """Compares with the formal parameters; ``variables`` holds what each type variable means so far, and where."""
    for i, key in enumerate(keys):
        p = params[i] if i < len(params) else params[-1]
        if key is None:
            continue
        label = f"{what} {i} ({p.name})"
        if key == OMITTED:
            if not p.optional:
                return f"{label} is omitted, it is not optional"
            continue
        spelled = f"tensor({_SPELLED[key]})" if isinstance(key, DType) else str(key)
        if spelled not in p.types:
            return f"{label} is {_own_name(spelled)}, expected {_one_of(p.types)}"
        if p.homogeneous and p.types != (p.constraint,):
            before = variables.setdefault(p.constraint, (spelled, label))
            if before[0] != spelled:
                return f"{label} is {_own_name(spelled)}, expected {_own_name(before[0])} like {before[1]}"
    return None


def _own_name(spelled: str) -> str:
    found = _BY_SPELLING.get(spelled)
    return spelled if found is None else found.text


def _one_of(types: tuple[str, ...]) -> str:
    texts = sorted(_own_name(t) for t in types)
    return texts[0] if len(texts) == 1 else f"one of {' '.join(texts)}"


def _wrong_attrs(s: Schema, attrs: tuple[tuple[str, int], ...]) -> str | None:
    for name, kind in attrs:
        spec = s.attrs.get(name)
        if spec is None:
            known = ", ".join(sorted(s.attrs)) or "none"
            return f"unknown attribute {name} in version {s.since} of the operator, it has {known}"
        if kind != spec.kind and not (kind == ANY_LIST and spec.kind in _LISTS):
            return f"attribute {name} is {_KIND_WORDS.get(kind, f'of kind {kind}')}, expected {_KIND_WORDS[spec.kind]}"
    written = {name for name, _ in attrs}
    for name, spec in s.attrs.items():
        if spec.required and name not in written:
            return f"attribute {name} is missing, it is required"
    return None
