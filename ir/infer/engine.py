"""Inference: what is known about each value, from operands to results.

For a node in turn: the body of the model-local function it calls, its own rule (``rules.py`` and the files
of families), the rule for its bodies (``control.py``), ONNX's C++ rule. What is stored is true in every
run; what the file declares about intermediates and outputs is never used, the interface's input types
are facts.
"""

from __future__ import annotations

from itertools import zip_longest

from ..dims import Dim
from ..dtypes import DType
from ..errors import ModelError
from ..graph import AttrRef, Graph, Model, Node, Value
from ..ops import ELEMENTWISE
from ..schema import schema
from ..types import TensorType, Type
from .calls import Calls
from .contrib import by_constraint
from .families import CONTENTS, CONTROLS, ROWS
from .onnx_rules import infer_with_onnx
from .rules import MAX_ELEMENTS, WHOLE, Elements, Types, mismatch

MAX_DEPTH = 48
"""Bodies nested deeper, and function calls beyond it, keep unknown types."""
MAX_EXTENT = (1 << 63) - 1
"""The largest number of int64, in which ONNX counts elements."""


def infer_node(node: Node) -> bool:
    """Sets type and known elements of the node's outputs from its operands; ``True`` where something changed.

    Bodies inside the node are inferred too. Raises ``ModelError`` where operands contradict the operator;
    the outputs' types are unknown then.
    """
    return Inference(strict=True).node(node)


def infer_graph(graph: Graph, *, strict: bool = False) -> list[ModelError]:
    """Infers all nodes of a graph in order, bodies inside included.

    Not ``strict``: a contradiction leaves the node's outputs unknown and is returned; else it is raised.
    """
    inference = Inference(strict=strict)
    inference.body(graph)
    return list(inference.errors.values())


def infer_model(model: Model, *, strict: bool = False) -> list[ModelError]:
    """Infers the main graph and then, for what holds whatever the caller passes, the functions' bodies."""
    inference = Inference(strict=strict)
    inference.body(model.graph)
    for function in model.functions.values():
        inference.body(function.graph)
    return list(inference.errors.values())


class Inference:
    """One run of inference: whether errors raise, how deep it is, and what calls gave before."""

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.depth = 0
        self.errors: dict[Node, ModelError] = {}
        """Contradictions by node, the last one found where a body is inferred several times."""
        self._calls: Calls | None = None

    def body(self, graph: Graph) -> None:
        """Infers the nodes of a graph, whose inputs have their types."""
        if self.depth >= MAX_DEPTH:
            _forget(graph)
            return
        self.depth += 1
        try:
            for node in graph:
                self.node(node)
        finally:
            self.depth -= 1

    def forgive(self, graph: Graph) -> None:
        """Forgets the contradictions found in a body that no run enters."""
        if self.errors:
            for node in graph.all_nodes():
                self.errors.pop(node, None)

    def node(self, node: Node) -> bool:
        """Infers one node; ``True`` where a result's type or elements changed."""
        try:
            types, known = self._results(node)
            changed = False
            # A rule may give fewer types than there are outputs, or more than are asked for.
            for i, out in enumerate(node.outputs):
                new = types[i] if types is not None and i < len(types) else None
                old = out.type
                if new is not old and new != old and _set_type(out, _possible(new, node)):
                    changed = True
            if known is not None or any(map(_may_have_elements, node.outputs)):
                changed = _set_elements(node, known) or changed
        except ModelError as error:
            return self._failed(node, error)
        except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
            # Rules take operators as their schemas describe them; a node that is not so ends up here.
            return self._failed(node, mismatch(node, _malformed(node, error)), error)
        if self.errors:
            self.errors.pop(node, None)
        return changed

    def _results(self, node: Node) -> tuple[Types, list[Elements] | None]:
        """Types of the outputs, and their elements where no contents rule is to be asked."""
        graph = node.graph
        key = (node.domain, node.op)
        if graph is not None and graph.model is not None and graph.model.functions:
            function = graph.model.functions.get((node.domain, node.op, node.overload))
            if function is not None:
                if self._calls is None:
                    self._calls = Calls()
                return self._calls.infer(node, function, self)
        if node.attrs and any(type(a) is AttrRef for a in node.attrs.values()):
            nothing: list[Elements] = [None] * len(node.outputs)
            return self._for_any_caller(node), nothing
        rule = ROWS.get(key)
        if rule is not None:
            types = rule(node)
            return (types if types is not None else _by_schema(node)), None
        control = CONTROLS.get(key)
        if control is not None:
            return control(node, self), None
        if node.attrs:
            for inner in node.subgraphs:
                self.body(inner)
        return _by_schema(node), None

    def _for_any_caller(self, node: Node) -> Types:
        """Types of a node in a function's body whose attributes only a caller knows: no shape that they may decide."""
        for inner in node.subgraphs:
            self.body(inner)
        key = (node.domain, node.op)
        rule = ROWS.get(key) if key in ELEMENTWISE and node.op != "Cast" else None
        return rule(node) if rule is not None else by_constraint(node)

    def _failed(self, node: Node, error: ModelError, cause: Exception | None = None) -> bool:
        changed = False
        for out in node.outputs:
            changed = changed or out.type is not None or out.known is not None
            out.type = out.known = None
        if self.strict:
            raise error from cause
        self.errors[node] = error
        return changed


def _malformed(node: Node, error: Exception) -> str:
    """What about the node is not as its schema says, else what went wrong in the rule."""
    found = schema(node.domain, node.op, node.version)
    if found is not None:
        count = len(node.inputs)
        if not found.min_inputs <= count <= found.max_inputs:
            return f"malformed node: {count} operands, expected {found.min_inputs} to {found.max_inputs}"
        missing = [a.name for a in found.attrs.values() if a.required and a.name not in node.attrs]
        if missing:
            return f"malformed node: attribute {missing[0]} is missing"
    return f"malformed node: {type(error).__name__}: {error}; expected operands and attributes as in the schema"


def _by_schema(node: Node) -> Types:
    """By ONNX's rule; where that says nothing, what the schema's type variables say."""
    types = infer_with_onnx(node)
    if types is None or any(t is None for t in types):
        rough = by_constraint(node) or ()
        types = [a if a is not None else b for a, b in zip_longest(types or (), rough)]
    return types


def _possible(new: Type | None, node: Node) -> Type | None:
    """The type as it is. Raises ``ModelError`` where an axis has an extent that no tensor can have."""
    if type(new) is TensorType and new.shape is not None:
        for d in new.shape:
            if type(d) is int and not 0 <= d <= MAX_EXTENT:
                raise mismatch(node, f"a result has shape {new}: an extent is negative or over 2^63-1")
    return new


def _set_type(out: Value, new: Type | None) -> bool:
    """Stores a type; what a pass annotated (layout, quantization) stays where element type and rank do."""
    old = out.type
    if isinstance(old, TensorType) and isinstance(new, TensorType):
        annotated = old.layout is not None or old.quant is not None
        if annotated and new.dtype is old.dtype and new.rank == old.rank:
            new = TensorType(new.dtype, new.shape, old.layout, old.quant, new.sparse)
            if new == old:
                return False
    out.type = new
    return True


def _may_have_elements(out: Value) -> bool:
    t = out.type
    if type(t) is TensorType and t.dtype in WHOLE and t.shape is not None and len(t.shape) <= 1:
        return True
    return out.known is not None


def _set_elements(node: Node, per_output: list[Elements] | None) -> bool:
    if per_output is None:
        rule = CONTENTS.get((node.domain, node.op))
        found = rule(node) if rule is not None else None
        per_output = found if isinstance(found, list) else [found]
    changed = False
    for i, out in enumerate(node.outputs):
        known = _fitting(per_output[i], out) if i < len(per_output) else None
        if known != out.known:
            out.known = known
            changed = True
    return changed


def _fitting(known: tuple[Dim, ...] | None, out: Value) -> Elements:
    """The elements where they fit the type and say anything."""
    if known is None or out.shape is None or len(known) > MAX_ELEMENTS or out.dtype not in WHOLE:
        return None
    if len(out.shape) > 1 or len(known) != (out.shape[0] if out.shape else 1):
        return None
    most = MAX_EXTENT if out.dtype is DType.I64 else (1 << 31) - 1 if out.dtype is DType.I32 else 1
    if any(type(d) is int and not -most - 1 <= d <= most for d in known):
        return None  # it would wrap around
    return known if any(d is not None for d in known) or not known else None


def _forget(graph: Graph) -> None:
    for node in graph.all_nodes():
        for out in node.outputs:
            out.type = out.known = None
