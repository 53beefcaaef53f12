"""Take the three products that make queries, keys and values into ONNX Runtime's whole-block Attention.

    Attention(x Wq + bq, x Wk + bk, x Wv + bv, mask)  =  com.microsoft::Attention(x, [Wq Wk Wv], [bq bk bv], mask)

**Why** five nodes less in every layer. On ONNX Runtime 1.31 (x86-64, one thread) it changes nothing at the ten to
fifteen tokens of a sentence and costs 2 to 4 % of MiniLM at 128, so it is in no default pipeline.
**Needs** a target with ONNX Runtime on x86-64 (measured there); float32; one computed value for all three products,
constant matrices that nothing else uses; as many key heads as query heads; a mask of floats for each query and key.
**Leaves** attention with a cache, a soft cap or boolean masks, cross attention, matrices of different widths.
**Numbers** reassociates.
**Source** ONNX Runtime's contrib operators, Attention-1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.constants import ArrayConstant
from ...ir.dims import same_dim, same_shape
from ...ir.dtypes import DType
from ...ir.graph import Model, Node, Value
from ..core import Numbers, RewritePass, pass_name
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..rewrite.greedy import apply_rules
from ..rewrite.matcher import scalar_value
from ..rewrite.rewriter import origin_of
from ..shared.attention_mask import RAISED
from ..shared.emit import CONTRIB, allows_contrib
from ..shared.linear import Linear, linear_at

_MASK = 5
"""Position of the additive mask among the operands."""
_ATTRIBUTES = frozenset({"is_causal", "scale", "q_num_heads", "kv_num_heads"})


@dataclass
class PackAttention(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule]:
        yield SelfAttention()

    def run(self, model: Model, r: Rewriter) -> None:
        super().run(model, r)
        lowered = AsLowAsBefore()  # once all layers that share a mask have their operator
        lowered.owner = pass_name(type(self))
        apply_rules(model, [lowered], r)


class AsLowAsBefore(NodeRule):
    """A fill that was raised for the standard's Attention alone: this operator adds any number."""

    roots = ("Max",)

    def apply(self, r: Rewriter, node: Node) -> Value:
        mask = node.inputs[0]
        if len(node.inputs) != 2 or mask is None or scalar_value(node.inputs[1], node) != RAISED[DType.F32]:
            raise NoMatch("not the number to which masks are raised")
        ends = [(user, i) for user, i in node.output.uses]
        while any(user.op == "Expand" and i == 0 and not user.domain for user, i in ends):
            ends = [end for user, i in ends for end in (user.output.uses if user.op == "Expand" else [(user, i)])]
        if not all(user.op == "Attention" and user.domain == CONTRIB and i == _MASK for user, i in ends):
            raise NoMatch("the mask is read elsewhere too")
        if not same_shape(mask.shape, node.output.shape):
            raise NoMatch(f"the number widens {mask.type}")
        return mask


class SelfAttention(NodeRule):
    """Attention on three products of one value."""

    roots = ("Attention",)

    def apply(self, r: Rewriter, node: Node) -> Value:
        target = r.ctx.target
        if not allows_contrib(r) or target is None or target.runtime != "ort" or target.arch != "x86_64":
            raise NoMatch("the target is not ONNX Runtime on x86-64")
        heads = _heads(node)
        parts = [linear_at(v, what) for v, what in zip(node.inputs[:3], ("Q", "K", "V"), strict=True) if v is not None]
        if len(parts) != 3:
            raise NoMatch("an operand is absent")
        x = parts[0].x
        width = _width(parts, x, heads)
        mask = _mask(node, x, heads)
        biases = [np.broadcast_to(part.bias_vector(), (width,)) for part in parts]
        weights = [part.weight.numpy() for part in parts]
        r.begin(node, origin_of([*(n for part in parts for n in (part.node, part.add) if n is not None), node]))
        name = parts[0].weight.name
        attrs: dict[str, Any] = {"num_heads": heads, "unidirectional": int(node.attr("is_causal", 0))}
        if "scale" in node.attrs:
            attrs["scale"] = node.attrs["scale"]
        return r.op(
            f"{CONTRIB}::Attention",
            x,
            r.const(ArrayConstant(np.concatenate(weights, axis=1), DType.F32), name=f"{name}_qkv"),
            r.const(ArrayConstant(np.concatenate(biases).astype(np.float32), DType.F32), name=f"{name}_qkv_bias"),
            *([] if mask is None else [None, None, mask]),
            **attrs,
        )


def _heads(node: Node) -> int:
    """The number of heads. Raises :class:`NoMatch` where the node does more than the kernel."""
    if node.domain or len(node.outputs) > 1 or any(v is not None for v in node.inputs[4:]):
        raise NoMatch("a cache, or another operator")
    if extra := sorted(set(node.attrs) - _ATTRIBUTES):
        raise NoMatch(f"{', '.join(extra)} is given")
    heads = node.attrs.get("q_num_heads")
    if not isinstance(heads, int) or node.attrs.get("kv_num_heads") != heads or node.output.rank != 3:
        raise NoMatch("heads are split before, or grouped")
    return heads


def _width(parts: list[Linear], x: Value, heads: int) -> int:
    """Columns of each matrix. Raises :class:`NoMatch` unless the three are alike."""
    if x.data is not None or x.rank != 3 or x.dtype is not DType.F32:
        raise NoMatch(f"%{x.name} is {x.type}, expected computed float32 of rank 3")
    shapes = {part.weight.shape for part in parts}
    if any(part.x is not x or part.node.op != "MatMul" or part.side != 1 for part in parts):
        raise NoMatch("queries, keys and values are not products of one value")
    if any(len(part.weight.uses) != 1 for part in parts):
        raise NoMatch("a matrix has another user")
    shape = shapes.pop()
    if shapes or shape is None or len(shape) != 2 or not isinstance(shape[1], int) or shape[1] % heads:
        raise NoMatch("the matrices differ in shape")
    return shape[1]


def _mask(node: Node, x: Value, heads: int) -> Value | None:
    """The additive mask. Raises :class:`NoMatch` where the kernel would not broadcast it."""
    mask = node.input(3)
    if mask is None:
        return None
    if mask.dtype is not DType.F32 or mask.rank != 4 or mask.shape is None or x.shape is None:
        raise NoMatch(f"the mask is {mask.type}, expected float32 of rank 4")
    batch, across, queries, keys = mask.shape
    whole = same_dim(queries, x.shape[1]) and same_dim(keys, x.shape[1])
    if not whole or across not in (1, heads) or not (batch == 1 or same_dim(batch, x.shape[0])):
        raise NoMatch(f"the mask is {mask.type}, {heads} heads of {x.type}")
    return mask
