"""What changed in operators from one opset to the next, and how a node says the same in the later one.

Most new versions only admit more (types, optional operands, attributes whose default is the old behaviour); that is
read off the schemas (:func:`extends`). The others have an adapter here, or a reason why there is none.
Source: the changelog of ONNX operators (docs/Changelog.md), versions 7 to 28.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir.graph import Node, Value
from ...ir.schema import ABSENT, Schema, same_attr, schema
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch

Results = list[Value | None]
Adapter = Callable[[Rewriter, Node, "Old"], Results]
"""Emits the node in its new form. Raises :class:`NoMatch` before it changes anything."""


class Old:
    """A node read by the schema of the opset that it was written for."""

    def __init__(self, node: Node, version: int) -> None:
        self.node, self.version = node, version
        self.schema = schema(node.domain, node.op, version)

    def attr(self, name: str, default: Any = None) -> Any:
        """The attribute as written, else the old schema's default."""
        found: Any = self.node.attrs.get(name, ABSENT)
        if found is not ABSENT:
            return found
        spec = self.schema.attrs.get(name) if self.schema is not None else None
        return default if spec is None or spec.default is ABSENT else spec.default

    def attrs_without(self, *names: str) -> dict[str, Any]:
        return {k: v for k, v in self.node.attrs.items() if k not in names}


def extends(new: Schema, old: Schema) -> bool:
    """Whether a node of the old version means the same in the new one, as far as schemas can tell."""
    if new.deprecated or len(old.outputs) > len(new.outputs) or len(old.inputs) > len(new.inputs):
        return False
    for name, spec in old.attrs.items():
        later = new.attrs.get(name)
        if later is None or (later.required and not spec.required) or not _same_default(spec.default, later.default):
            return False
    if any(spec.required and name not in old.attrs for name, spec in new.attrs.items()):
        return False
    for i, param in enumerate(new.inputs):
        if i >= len(old.inputs):
            if not param.optional:
                return False
        elif param.variadic is not old.inputs[i].variadic or (old.inputs[i].optional and not param.optional):
            return False
    return True


def _same_default(a: Any, b: Any) -> bool:
    return (a is ABSENT) is (b is ABSENT) and (a is ABSENT or same_attr(a, b))


# -- attributes that became operands


def _emit(r: Rewriter, node: Node, operands: list[Any], attrs: dict[str, Any]) -> Results:
    while operands and operands[-1] is None:
        operands.pop()
    made = r.op(node.op, *operands, _outputs=len(node.outputs), **attrs)
    return made if isinstance(made, list) else [made]  # pyright: ignore[reportUnknownVariableType]


def _ints(given: Any) -> np.ndarray[Any, Any] | None:
    return None if given is None else np.array(given, np.int64)


def _axes(r: Rewriter, node: Node, old: Old) -> Results:
    return _emit(r, node, [node.inputs[0], _ints(old.attr("axes"))], old.attrs_without("axes"))


def _split(r: Rewriter, node: Node, old: Old) -> Results:
    sizes: Any = _ints(old.attr("split")) if old.version < 13 else node.input(1)
    attrs = old.attrs_without("split")
    if sizes is None and r.opset() >= 18:
        x, axis = node.inputs[0], int(old.attr("axis", 0))
        extent = x.shape[axis] if x is not None and x.shape is not None else None
        # From 18 on uneven parts are allowed: the old version refuses at run time what the new one splits.
        if not isinstance(extent, int) or extent % len(node.outputs):
            raise NoMatch(f"Split into {len(node.outputs)} parts of an axis of {extent}, which is not known to divide")
        attrs["num_outputs"] = len(node.outputs)
    return _emit(r, node, [node.inputs[0], sizes], attrs)


def _clip(r: Rewriter, node: Node, old: Old) -> Results:
    x = node.inputs[0]
    if x is None or x.dtype is None:
        raise NoMatch("the element type of Clip's operand is unknown")
    dtype = x.dtype
    bounds = [old.node.attrs.get(name) for name in ("min", "max")]
    operands = [None if b is None else r.const(np.asarray(b), dtype) for b in bounds]
    return _emit(r, node, [x, *operands], {})


def _pad(r: Rewriter, node: Node, old: Old) -> Results:
    x = node.inputs[0]
    if x is None or x.dtype is None:
        raise NoMatch("the element type of Pad's operand is unknown")
    fill = float(old.attr("value", 0.0))
    value = r.const(np.asarray(fill), x.dtype) if fill else None
    return _emit(r, node, [x, _ints(old.attr("pads")), value], old.attrs_without("pads", "value"))


def _slice(r: Rewriter, node: Node, old: Old) -> Results:
    operands = [_ints(old.attr(name)) for name in ("starts", "ends", "axes")]
    return _emit(r, node, [node.inputs[0], *operands], {})


def _topk(r: Rewriter, node: Node, old: Old) -> Results:
    return _emit(r, node, [node.inputs[0], _ints([old.attr("k")])], old.attrs_without("k"))


def _dropout(r: Rewriter, node: Node, old: Old) -> Results:
    if len(node.outputs) == 1 or not node.outputs[1].uses:
        return [r.Dropout(node.inputs[0])]
    # In inference all of it is True from 12 on; before 10 it is a float, and in 10 runtimes give False.
    raise NoMatch("the mask of Dropout is used, which is another one since opset 12")


# -- other changes


def _batchnorm(r: Rewriter, node: Node, old: Old) -> Results:
    if len(node.outputs) > 1 or not old.attr("spatial", 1):
        raise NoMatch("BatchNormalization in training mode or with one statistic per element")
    return _emit(r, node, list(node.inputs), old.attrs_without("spatial"))


def _softmax(r: Rewriter, node: Node, old: Old) -> Results:
    """Before 13 the axes from ``axis`` on are one: Softmax of the matrix that Flatten gives."""
    x, axis = node.inputs[0], int(old.attr("axis", 1))
    if x is None or x.rank is None:
        raise NoMatch(f"the rank of the operand of {node.op} is unknown")
    axis += x.rank if axis < 0 else 0
    if axis == x.rank - 1:
        return [r.op(node.op, x, axis=axis)]
    flat = r.op(node.op, r.Flatten(x, axis=axis), axis=-1)
    return [r.Reshape(flat, r.Shape(x))]


def _upsample(r: Rewriter, node: Node, old: Old) -> Results:
    given: Any = node.attrs.get("scales")
    scales: Any = node.input(1) if old.version >= 9 else np.array(given, np.float32)
    mode = old.attr("mode", "nearest")
    resized = r.Resize(
        node.inputs[0], None, scales, mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )
    return [resized]


def _resize(r: Rewriter, node: Node, old: Old) -> Results:
    scales = node.input(1)
    if scales is None or scales.data is None or bool((scales.numpy() < 1).any()):
        raise NoMatch("Resize-10 makes smaller, or by unknown scales: its rounding has no name in later versions")
    return _upsample(r, node, old)


def _gridsample(r: Rewriter, node: Node, old: Old) -> Results:
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(old.attr("mode", "bilinear"), old.attr("mode"))
    return _emit(r, node, list(node.inputs), {**old.attrs_without("mode"), "mode": mode})


def _scatter(r: Rewriter, node: Node, old: Old) -> Results:
    return [r.op("ScatterElements", *node.inputs, **old.attrs_without())]


def _roialign(r: Rewriter, node: Node, old: Old) -> Results:
    attrs = {**old.attrs_without(), "coordinate_transformation_mode": "output_half_pixel"}
    return _emit(r, node, list(node.inputs), attrs)


def _average_pool(r: Rewriter, node: Node, old: Old) -> Results:
    if old.attr("ceil_mode", 0):
        raise NoMatch("AveragePool with ceil_mode counts the last window otherwise since opset 19")
    return _emit(r, node, list(node.inputs), old.attrs_without())


def _conv_transpose(r: Rewriter, node: Node, old: Old) -> Results:
    if "output_shape" in node.attrs or old.attr("auto_pad", "NOTSET") != "NOTSET":
        raise NoMatch("ConvTranspose pads to an output shape otherwise since opset 11")
    return _emit(r, node, list(node.inputs), old.attrs_without())


def _same(r: Rewriter, node: Node, old: Old) -> Results:
    return _emit(r, node, list(node.inputs), old.attrs_without())


_REDUCTIONS = "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSumSquare"
ADAPTERS: dict[str, tuple[tuple[int, Adapter], ...]] = {
    **dict.fromkeys(_REDUCTIONS.split(), ((18, _axes),)),
    "ReduceSum": ((13, _axes),),
    "Squeeze": ((13, _axes),),
    "Unsqueeze": ((13, _axes),),
    "Split": ((18, _split), (13, _split)),
    "Clip": ((11, _clip),),
    "Pad": ((11, _pad),),
    "Slice": ((10, _slice),),
    "TopK": ((10, _topk),),
    "Dropout": ((12, _dropout), (10, _dropout)),
    "BatchNormalization": ((14, _batchnorm), (9, _batchnorm)),
    "Softmax": ((13, _softmax),),
    "LogSoftmax": ((13, _softmax),),
    "Hardmax": ((13, _softmax),),
    "Upsample": ((10, _upsample),),
    "Resize": ((11, _resize),),
    "GridSample": ((20, _gridsample),),
    "Scatter": ((11, _scatter),),
    "RoiAlign": ((16, _roialign),),
    "AveragePool": ((19, _average_pool),),
    "ConvTranspose": ((11, _conv_transpose),),
    "Gemm": ((11, _same),),
}
"""By operator: the opset that changed it and what to do when that opset is crossed. The first that is crossed counts,
and its adapter emits the newest form."""

BREAKS: dict[str, tuple[int, str]] = {
    "GroupNormalization": (21, "GroupNormalization has one scale per channel, not per group, since opset 21"),
}


def adapter_for(op: str, before: int, after: int) -> Adapter | None:
    """The adapter for an operator of opset ``before`` in opset ``after``; ``None`` where it may stay as it is.

    Raises :class:`NoMatch` where the operator has no equal, or nobody has written it down here.
    """
    for boundary, adapter in ADAPTERS.get(op, ()):
        if before < boundary <= after:
            return adapter
    broken = BREAKS.get(op)
    if broken is not None and before < broken[0] <= after:
        raise NoMatch(broken[1])
    old, new = schema("", op, before), schema("", op, after)
    if old is None or new is None:
        raise NoMatch(f"{op} does not exist in opset {before if old is None else after}")
    if new.since != old.since and not extends(new, old):
        raise NoMatch(f"{op} changed between opset {old.since} and {new.since} and has no adapter")
    return None
