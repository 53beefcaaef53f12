"""Schemas of operators by domain, name and version.

Schemas of ONNX domains come from ``onnx.defs`` (loaded when first asked), those of ONNX Runtime's
contrib operators from ``contrib_schemas.json`` (written by ``scripts/dump-contrib-schemas`` from the
installed runtime's registry). An operator without a schema is *unknown*: no pass may look inside it,
and it is never removed, merged or folded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any

STANDARD = ("", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training")
ABSENT = object()
"""Default of an attribute that has none."""

# AttributeProto.AttributeType
FLOAT, INT, STRING, TENSOR, GRAPH, FLOATS, INTS, STRINGS, TENSORS, GRAPHS, SPARSE, SPARSES, TYPE, TYPES = range(1, 15)


@dataclass(frozen=True, slots=True)
class Param:
    """A formal input or output."""

    name: str
    optional: bool
    variadic: bool
    homogeneous: bool
    types: tuple[str, ...]
    """Admissible types as ONNX spells them, ``tensor(float)``."""
    constraint: str
    """Name of the type variable (``T``), or a type."""


@dataclass(frozen=True, slots=True)
class AttrSpec:
    """A formal attribute."""

    name: str
    kind: int
    """``AttributeProto.AttributeType`` code."""
    required: bool
    default: Any
    """``ABSENT`` where the schema states none."""


@dataclass(frozen=True, slots=True)
class Schema:
    """An operator of one version. Source: the ONNX operator registry."""

    domain: str
    name: str
    since: int
    inputs: tuple[Param, ...]
    outputs: tuple[Param, ...]
    attrs: dict[str, AttrSpec]
    min_inputs: int
    max_inputs: int
    min_outputs: int
    max_outputs: int
    deprecated: bool = False
    has_function: bool = False
    """Whether the standard defines it by a body of other operators."""


@cache
def schema(domain: str, op: str, version: int) -> Schema | None:
    """The schema in force when the model imports ``version`` of ``domain``; ``None`` for an unknown operator."""
    if domain in STANDARD:
        import onnx.defs

        try:
            return _from_onnx(onnx.defs.get_schema(op, version, domain))
        except onnx.defs.SchemaError:
            # ONNX Runtime keeps some operators of its own in the standard domain: SimplifiedLayerNormalization.
            return _contrib().get((domain, op))
    return _contrib().get((domain, op))


def _from_onnx(s: Any) -> Schema:  # an onnx.defs.OpSchema, whose stubs lack half of it
    from onnx.helper import get_attribute_value

    types = {c.type_param_str: tuple(c.allowed_type_strs) for c in s.type_constraints}

    def params(formals: Any) -> tuple[Param, ...]:
        return tuple(
            Param(
                p.name,
                p.option.name == "Optional",
                p.option.name == "Variadic",
                p.is_homogeneous,
                types.get(p.type_str, (p.type_str,)),
                p.type_str,
            )
            for p in formals
        )

    attrs: dict[str, AttrSpec] = {}
    for name, a in s.attributes.items():
        default: Any = ABSENT
        if not a.required and a.default_value.type:
            default = attr_default(get_attribute_value(a.default_value))
        attrs[name] = AttrSpec(name, a.type.value, a.required, default)
    return Schema(
        s.domain,
        s.name,
        s.since_version,
        params(s.inputs),
        params(s.outputs),
        attrs,
        s.min_input,
        s.max_input,
        s.min_output,
        s.max_output,
        s.deprecated,
        s.has_function or s.has_context_dependent_function,
    )


def attr_default(value: Any) -> Any:
    """A default value in the form that :class:`Node` keeps attributes in."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, (list, tuple)):
        return tuple(attr_default(v) for v in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return value


@cache
def _contrib() -> dict[tuple[str, str], Schema]:
    path = Path(__file__).with_name("contrib_schemas.json")
    if not path.exists():
        return {}
    table: dict[tuple[str, str], Schema] = {}
    for row in json.loads(path.read_text()):
        attrs = {
            a["name"]: AttrSpec(
                a["name"], a["kind"], a["required"], attr_default(a["default"]) if "default" in a else ABSENT
            )
            for a in row["attrs"]
        }
        table[row["domain"], row["name"]] = Schema(
            row["domain"],
            row["name"],
            row["since"],
            tuple(_param(p) for p in row["inputs"]),
            tuple(_param(p) for p in row["outputs"]),
            attrs,
            row["min_inputs"],
            row["max_inputs"],
            row["min_outputs"],
            row["max_outputs"],
        )
    return table


def _param(row: dict[str, Any]) -> Param:
    return Param(
        row["name"],
        row.get("optional", False),
        row.get("variadic", False),
        row.get("homogeneous", True),
        tuple(row["types"]),
        row["constraint"],
    )


def same_attr(a: Any, b: Any) -> bool:
    """Whether two attributes are equal, floats by their bits as float32 (so ``NaN`` equals itself)."""
    import numpy as np

    if isinstance(a, float) or isinstance(b, float):
        if not (isinstance(a, Real) and isinstance(b, Real)):
            return False
        return np.float32(float(a)).tobytes() == np.float32(float(b)).tobytes()
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(same_attr(x, y) for x, y in zip(a, b, strict=True))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(a, (str, bytes)) and isinstance(b, (str, bytes)):
        return (a.encode() if isinstance(a, str) else a) == (b.encode() if isinstance(b, str) else b)
    return type(a) is type(b) and bool(a == b)  # pyright: ignore[reportUnknownArgumentType]
