"""Inference of calls of model-local functions: the body with the operands' types, constants and attributes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from ..constants import Constant
from ..dims import Dim
from ..errors import ModelError
from ..graph import Attr, AttrRef, Function, Graph, Node, Value
from ..types import Type
from .rules import Elements, Engine, Types, elements_of, mismatch

BUDGET_NODES = 200_000
"""Nodes of function bodies inferred in one run; calls beyond give unknown types (nested calls can be exponential)."""

Result = tuple["list[Type | None]", "list[Elements]"]


class Calls:
    """Results of calls by function and operands, for one run of inference."""

    def __init__(self) -> None:
        self._memo: dict[Any, Result] = {}
        self._open: set[tuple[str, str, str]] = set()
        self._left = BUDGET_NODES

    def infer(self, node: Node, function: Function, engine: Engine) -> tuple[Types, list[Elements]]:
        """Types and known elements of the call's outputs; unknown where a function calls itself."""
        if function.key in self._open:
            return [], []
        key = _key(node, function)
        found = self._memo.get(key) if key is not None else None
        if found is None:
            found = self._run(node, function, engine)
            if key is not None:
                self._memo[key] = found
        return found

    def _run(self, node: Node, function: Function, engine: Engine) -> Result:
        body = function.graph
        inner = list(body.all_nodes())
        self._left -= len(inner)
        if self._left < 0:
            return [], []
        self._open.add(function.key)
        strict, engine.strict = engine.strict, True
        try:
            with _restored(body, inner), _bound(node, function, inner):
                engine.body(body)
                return [v.type for v in body.outputs], [elements_of(v) for v in body.outputs]
        except ModelError as error:
            raise mismatch(node, f"in the body of the function: {error.message}") from error
        finally:
            engine.strict = strict
            self._open.discard(function.key)


def _key(node: Node, function: Function) -> Any:
    if any(isinstance(a, Graph) for a in node.attrs.values()):
        return None
    operands = tuple([None if v is None else (v.type, v.known, v.data) for v in node.inputs])
    return function.key, operands, tuple(sorted(node.attrs.items(), key=lambda item: item[0]))


@contextmanager
def _restored(body: Graph, inner: list[Node]) -> Generator[None]:
    """Puts back what the body's values were known to be: it holds for other callers too."""
    values = [v for graph in body.all_graphs() for v in graph.inputs]
    values += [v for node in inner for v in node.outputs]
    saved: list[tuple[Value, Type | None, tuple[Dim, ...] | None, Constant | None]] = []
    saved.extend((v, v.type, v.known, v.data) for v in values)
    try:
        yield
    finally:
        for value, type_, known, data in saved:
            value.type, value.known, value.data = type_, known, data


@contextmanager
def _bound(node: Node, function: Function, inner: list[Node]) -> Generator[None]:
    """Gives the formal inputs the operands' facts, and references to attributes their values."""
    for i, formal in enumerate(function.graph.inputs):
        actual = node.input(i)
        formal.type = actual.type if actual is not None else None
        formal.known = actual.known if actual is not None else None
        # Rules look for constant operands; inside this call the formal input is one.
        formal.data = actual.data if actual is not None else None
    given: dict[str, Attr] = {**function.defaults, **node.attrs}
    saved: list[tuple[Node, dict[str, Attr]]] = []
    for n in inner:
        if any(isinstance(a, AttrRef) for a in n.attrs.values()):
            saved.append((n, n.attrs))
            n.attrs = _resolved(n.attrs, given)
    try:
        yield
    finally:
        for n, attrs in saved:
            n.attrs = attrs


def _resolved(attrs: dict[str, Attr], given: dict[str, Attr]) -> dict[str, Attr]:
    """The attributes with references replaced; one the caller leaves out is left out too."""
    out: dict[str, Attr] = {}
    for name, attr in attrs.items():
        if not isinstance(attr, AttrRef):
            out[name] = attr
        elif attr.name in given:
            out[name] = given[attr.name]
    return out
