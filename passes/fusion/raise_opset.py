"""Raise the version of the standard operators that a model imports.

Most operators only gained element types. Where lists of numbers became operands (Squeeze, Unsqueeze, Split, the
reductions, Clip, Pad, Slice, TopK, Dropout) they are made constants; where a default changed, the old one is written.

**Why** newer versions have LayerNormalization (17), Gelu (20), RMSNormalization and Attention (23) as operators.
**Needs** opset 7 or newer, and for every operator a step that is known to keep what it computes: the schemas of both
versions are compared, and the few changes of meaning that schemas do not show are listed.
**Leaves** the whole model as it is where one operator cannot be raised (a Softmax of opset 12 over several axes,
Upsample, GroupNormalization across 21); functions of the model, which import versions of their own. With
``norms=true`` models without a spelled-out normalization.
**Numbers** exact.
**Source** ONNX operator changelog, versions 7 to 24.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ...ir.graph import Graph, Model, Node, Value
from ...ir.schema import ABSENT, Schema, same_attr, schema
from ..core import Pass
from ..rewrite import NoMatch, Rewriter
from ..shared.norms import ROOTS, find_norm

_OLDEST = 7
_IR_VERSIONS = {8: 3, 9: 4, 10: 5, 11: 6, 12: 7, 15: 8, 19: 9, 21: 10, 23: 11, 24: 12}
"""First opset of each IR version. Source: onnx.helper.VERSION_TABLE."""

Adapter: TypeAlias = Callable[[Rewriter, Node], None]


@dataclass
class RaiseOpset(Pass):
    """See the module."""

    to: int = 17
    norms: bool = False
    """Only where a normalization is spelled out that version 17 has an operator for."""

    def run(self, model: Model, r: Rewriter) -> None:
        graph = model.graph
        version = graph.opsets.get("", 0)
        if not _OLDEST <= version < self.to:
            r.ctx.note(f"the model imports opset {version}, wanted {_OLDEST} to {self.to - 1}")
            return
        nodes = list(graph.all_nodes())
        if self.norms and not any(_is_norm(node) for node in nodes):
            r.ctx.note("no normalization is spelled out")
            return
        try:
            steps = [(node, step) for node in nodes if node.domain == "" for step in _steps(node, self.to)]
        except NoMatch as error:
            r.ctx.note(error.reason)
            return
        if not r.allow(graph.ret):
            return
        for node, step in steps:
            step(r, node)
        graph.opsets[""] = self.to
        for node in nodes:
            _write_opset(node.subgraphs if node.attrs else (), self.to)
        model.ir_version = max(model.ir_version, max(ir for first, ir in _IR_VERSIONS.items() if first <= self.to))
        r.changes += 1


def _write_opset(bodies: Iterable[Graph], to: int) -> None:
    for body in bodies:
        body.opsets[""] = to


def _is_norm(node: Node) -> bool:
    if node.op not in ROOTS or node.domain:
        return False
    try:
        return find_norm(node).centered
    except NoMatch:
        return False


# -- which steps


def _steps(node: Node, to: int) -> list[Adapter]:
    """What to do with ``node``, in order. Raises :class:`NoMatch` where it cannot be raised."""
    old, new = schema("", node.op, node.version), schema("", node.op, to)
    if old is None or (new is None or new.deprecated):
        raise NoMatch(f"{node.op} does not exist in opset {to if old is not None else node.version}")
    if old.since == new.since:
        return []
    found: list[Adapter] = []
    for (op, since), make in _ADAPTERS.items():
        if op == node.op and old.since < since <= new.since:
            step = make(node)
            if step is not None:
                found.append(step)
    crossed = any(op == node.op and old.since < since <= new.since for op, since in _ADAPTERS)
    if not crossed and not _is_extension(old, new):
        raise NoMatch(f"{node.op} changed between opset {old.since} and {new.since}")
    return found


def _is_extension(old: Schema, new: Schema) -> bool:
    """Whether what the old version says means the same in the new one, as far as schemas show."""
    names = [p.name for p in old.inputs]
    if len(new.inputs) < len(names) or any(not p.optional for p in new.inputs[len(names) :]):
        return False
    for name, spec in old.attrs.items():
        other = new.attrs.get(name)
        if other is None or other.kind != spec.kind:
            return False
        if (spec.default is ABSENT) != (other.default is ABSENT):
            return False
        if spec.default is not ABSENT and not same_attr(spec.default, other.default):
            return False
    return all(not spec.required for name, spec in new.attrs.items() if name not in old.attrs)


# -- adapters: called with the node as it is, they check and return what to do


def _axes_operand(name: str) -> Callable[[Node], Adapter | None]:
    """A list that becomes operand 1."""

    def make(node: Node) -> Adapter | None:
        given = node.attrs.get(name)
        if given is None:
            return None

        def step(r: Rewriter, node: Node) -> None:
            r.begin(node)
            r.set_attr(node, name, None)
            r.set_inputs(node, [node.inputs[0], r.const(np.array(given, np.int64))])

        return step

    return make


def _numbers(*names: tuple[str, type[Any]]) -> Callable[[Node], Adapter | None]:
    """Attributes that become scalar or list operands behind the first, in this order."""

    def make(node: Node) -> Adapter | None:
        given = [(node.attrs.get(name), kind) for name, kind in names]
        x = node.inputs[0]
        if all(value is None for value, _ in given):
            return None
        if x is None or x.dtype is None:
            raise NoMatch(f"the element type of the operand of {node.op} is unknown")

        def step(r: Rewriter, node: Node) -> None:
            r.begin(node)
            operands: list[Value | None] = [x]
            for value, kind in given:
                if value is None:
                    operands.append(None)
                elif kind is int:
                    operands.append(r.const(np.array(value, np.int64)))
                else:
                    operands.append(r.const(np.array(value), x.dtype))
            while operands[-1] is None:
                operands.pop()
            for name, _ in names:
                r.set_attr(node, name, None)
            r.set_inputs(node, operands)

        return step

    return make


def _softmax(node: Node) -> Adapter | None:
    """Before 13 all axes from ``axis`` on were one; the same where only one of them has more than one element."""
    x = node.inputs[0]
    shape = x.shape if x is not None else None
    if shape is None:
        raise NoMatch(f"the rank of the operand of {node.op} is unknown")
    axis = int(node.attr("axis", 1)) % max(len(shape), 1)
    if any(d != 1 for d in shape[axis + 1 :]):
        raise NoMatch(f"{node.op} of opset {node.version} over axes {axis} to {len(shape) - 1}")

    def step(r: Rewriter, node: Node) -> None:
        r.set_attr(node, "axis", axis if axis != len(shape) - 1 else -1)

    return step


def _split(node: Node) -> Adapter | None:
    if node.attrs.get("split") is not None or node.input(1) is not None:
        return None

    def step(r: Rewriter, node: Node) -> None:
        r.set_attr(node, "num_outputs", len(node.outputs))

    return step


def _inference(node: Node) -> Adapter | None:
    """BatchNormalization: the same with one result and statistics per channel."""
    if len(node.outputs) != 1 or not node.attr("spatial", 1):
        raise NoMatch("BatchNormalization with statistics per element or as results")

    def step(r: Rewriter, node: Node) -> None:
        r.set_attr(node, "spatial", None)

    return step


def _dropout(node: Node) -> Adapter | None:
    def step(r: Rewriter, node: Node) -> None:
        r.set_attr(node, "ratio", None)  # it does nothing in inference, and training_mode defaults to false

    return step


def _write_attr(name: str, old: Any, new: dict[str, str] | None = None) -> Callable[[Node], Adapter | None]:
    """A default that changed, or values that were renamed."""

    def make(node: Node) -> Adapter | None:
        found = node.attrs.get(name, old)
        value = new.get(str(found), found) if new is not None else found

        def step(r: Rewriter, node: Node) -> None:
            r.set_attr(node, name, value)

        return step

    return make


def _refuse(why: str) -> Callable[[Node], Adapter | None]:
    def make(node: Node) -> Adapter | None:
        raise NoMatch(f"{node.op}: {why}")

    return make


_REDUCTIONS = "ReduceMax ReduceMin ReduceMean ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceSumSquare"
_ADAPTERS: dict[tuple[str, int], Callable[[Node], Adapter | None]] = {
    ("BatchNormalization", 9): _inference,
    ("BatchNormalization", 14): _inference,
    ("Clip", 11): _numbers(("min", float), ("max", float)),
    ("Pad", 11): _numbers(("pads", int), ("value", float)),
    ("Slice", 10): _numbers(("starts", int), ("ends", int), ("axes", int)),
    ("TopK", 10): _refuse("k becomes an operand of rank 1"),
    ("Resize", 11): _refuse("coordinates are computed in another way"),
    ("Upsample", 9): _refuse("it was replaced by Resize"),
    ("Dropout", 12): _dropout,
    ("Squeeze", 13): _axes_operand("axes"),
    ("Unsqueeze", 13): _axes_operand("axes"),
    ("ReduceSum", 13): _axes_operand("axes"),
    ("Split", 13): _axes_operand("split"),
    ("Split", 18): _split,
    ("Softmax", 13): _softmax,
    ("LogSoftmax", 13): _softmax,
    ("Hardmax", 13): _softmax,
    ("RoiAlign", 16): _write_attr("coordinate_transformation_mode", "output_half_pixel"),
    ("GridSample", 20): _write_attr("mode", "bilinear", {"bilinear": "linear", "bicubic": "cubic"}),
    ("GroupNormalization", 21): _refuse("scale and bias are per channel, they were per group"),
    **{(op, 18): _axes_operand("axes") for op in _REDUCTIONS.split()},
}
