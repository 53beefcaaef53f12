"""Which operators ONNX Runtime has kernels for, by processor architecture.

The tables are dumps of the runtime's own registry (``scripts/dump-ort-kernels``); they answer for a machine
that is not this one. A node also runs without a kernel of its own where the standard defines it by a body
of other operators (a *function*), or in float16 with casts around a float32 kernel.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from ...ir.errors import BackendError
from ...ir.graph import Model, Node, Value
from ...ir.ops import function_of
from ...ir.schema import Param, Schema, schema
from ...ir.types import MapType, OptionalType, SequenceType, TensorType, Type

ARCHITECTURES = ("x86_64", "aarch64")
_ONLY_NAMED = ("ai.onnx", "")


class Support(Enum):
    """How the runtime runs a node."""

    KERNEL = "kernel"
    FUNCTION = "function"
    """Expanded into the operators of its body."""
    CAST = "cast"
    """No float16 kernel: the runtime casts to float32 and back, which costs time."""
    UNKNOWN = "unknown"
    """Types that planish does not know, or an architecture without a table."""
    NONE = "none"


@dataclass(frozen=True)
class Row:
    """One or more kernels: versions of the operator they implement, and the types of its type variables."""

    first: int
    last: int | None
    """``None``: written for ``first`` only, whatever later versions may change."""
    types: dict[str, frozenset[str]]

    def implements(self, since: int) -> bool:
        """Whether it serves the operator as defined in version ``since`` (the runtime's own rule)."""
        return self.first == since or (self.last is not None and self.first <= since <= self.last)


@cache
def kernel_table(arch: str) -> dict[str, tuple[Row, ...]]:
    """Rows by ``"Op"`` or ``"domain:Op"``. Raises ``BackendError`` for an architecture without a table."""
    if arch not in ARCHITECTURES:
        raise BackendError(
            f"no table of kernels for {arch!r}", where="ort", help=f"there are tables for {', '.join(ARCHITECTURES)}"
        )
    plain = json.loads(Path(__file__).with_name(f"kernels_{arch}.json").read_text("utf-8"))
    return {
        key: tuple(Row(first, last, _types(types)) for first, last, types in rows)
        for key, rows in plain["kernels"].items()
    }


def _types(plain: dict[str, str]) -> dict[str, frozenset[str]]:
    return {variable: frozenset(names.split(" ")) for variable, names in plain.items()}


def supported(arch: str, domain: str, op: str, version: int, types: dict[str, str]) -> Support:
    """Whether a runtime for ``arch`` runs ``op`` of the domain's ``version`` with ``types``: type variable to element
    type (``{"T": "f32"}``); variables that are left out are taken to fit."""
    if arch not in ARCHITECTURES:
        return Support.UNKNOWN
    spec = schema(domain, op, version)
    rows = kernel_table(arch).get(op if domain in _ONLY_NAMED else f"{domain}:{op}", ())
    since = spec.since if spec is not None else version
    if any(_fits(row, since, types) for row in rows):
        return Support.KERNEL
    if spec is not None and spec.has_function:
        return Support.FUNCTION
    if "f16" in types.values():
        wider = {variable: "f32" if text == "f16" else text for variable, text in types.items()}
        if any(_fits(row, since, wider) for row in rows):
            return Support.CAST
    return Support.NONE


def _fits(row: Row, since: int, types: dict[str, str]) -> bool:
    return row.implements(since) and all(types[v] in names for v, names in row.types.items() if v in types)


def node_support(node: Node, arch: str) -> Support:
    """The same for a node, as its model imports it."""
    if function_of(node) is not None:
        return Support.FUNCTION
    if arch not in ARCHITECTURES:
        return Support.UNKNOWN
    spec = schema(node.domain, node.op, node.version)
    types = _node_types(node, spec) if spec is not None else {}
    return supported(arch, node.domain, node.op, node.version, types)


def _node_types(node: Node, spec: Schema) -> dict[str, str]:
    """Element types by type variable, as far as they are known."""
    found: dict[str, str] = {}
    for params, values in ((spec.inputs, node.inputs), (spec.outputs, node.outputs)):
        for param, value in _pairs(params, values):
            text = kernel_type(value.type) if value is not None else None
            if text is not None:
                found.setdefault(param.constraint, text)
    return found


def _pairs(params: tuple[Param, ...], values: Any) -> Iterator[tuple[Param, Value | None]]:
    for i, value in enumerate(values):
        if params:
            yield params[min(i, len(params) - 1)], value


def kernel_type(t: Type | None) -> str | None:
    """A type as the tables spell it: ``f32``, ``seq<f32>``, ``map<i64,f32>``; ``None`` where it is unknown."""
    if isinstance(t, TensorType):
        return t.dtype.text if t.dtype is not None else None
    if isinstance(t, MapType):
        element = kernel_type(t.element)
        return None if element is None else f"map<{t.key.text},{element}>"
    if isinstance(t, (SequenceType, OptionalType)):
        element = kernel_type(t.element)
        word = "seq" if isinstance(t, SequenceType) else "optional"
        return None if element is None else f"{word}<{element}>"
    return None


def _type_key(value: Value | None) -> str | None:
    return kernel_type(value.type) if value is not None else None


@dataclass(frozen=True)
class Unsupported:
    """A node that the runtime has no kernel for."""

    node: str
    op: str
    """``Op`` or ``domain:Op``."""
    types: dict[str, str]
    support: Support
    """``NONE``, or ``CAST`` where it runs with casts."""

    def __str__(self) -> str:
        types = ", ".join(f"{k}={v}" for k, v in self.types.items())
        how = "runs with casts to f32" if self.support is Support.CAST else "has no kernel"
        return f"{self.op} {self.node!r} ({types}) {how}"


def check_kernels(model: Model, arch: str) -> list[Unsupported]:
    """The nodes that a runtime for ``arch`` cannot run, or runs with casts. Empty for architectures without a table."""
    found: list[Unsupported] = []
    known: dict[tuple[Any, ...], Support] = {}
    for node in model.all_nodes():
        key = (
            node.domain,
            node.op,
            node.overload,
            node.version,
            *map(_type_key, node.inputs),
            "",
            *map(_type_key, node.outputs),
        )
        support = known.get(key)
        if support is None:
            support = known[key] = node_support(node, arch)
        if support in (Support.NONE, Support.CAST):
            spec = schema(node.domain, node.op, node.version)
            label = f"{node.domain}:{node.op}" if node.domain else node.op
            found.append(Unsupported(node.name, label, _node_types(node, spec) if spec else {}, support))
    return found
