"""Take attention behind a key-value cache into ONNX Runtime's GroupQueryAttention.

    Attention(q, k, v, mask, past) = com.microsoft::GroupQueryAttention(q, k, v, past, lengths, bias = mask; causal = 0)

Every sequence of the batch has past and new positions alike: their number is counted once. Rotary positions that are
looked up in tables with the same numbers for queries and keys are taken in (``do_rotary``) with option ``rotary``.

**Why** accelerators have kernels of it that read each key once for all heads of a group. On a processor ONNX
Runtime 1.31 takes 1.04 to 1.10 of the time of a small decoder with the standard's operator: in no default pipeline.
**Needs** a target with ONNX Runtime; float32 (on CUDA float16 too); packed heads, known numbers of them; a cache; one
sequence or one new position; a mask that is added and above -inf, with an element for every query and key, or none.
**Leaves** attention without a cache, boolean masks and infinite ones (rows without anything are NaN there), soft caps.
**Numbers** reassociates.
**Source** J. Ainslie et al., 2023; ONNX Runtime's contrib operators, GroupQueryAttention-1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.dims import add, same_dim
from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..rewrite.matcher import scalar_value
from ..rewrite.rewriter import origin_of
from ..rewrite.rule import Replacement
from ..shared.bounds import Bounds
from ..shared.emit import CONTRIB, allows_contrib, squeeze

_ATTRIBUTES = frozenset({"scale", "q_num_heads", "kv_num_heads", "is_causal"})
_OPSET = 15
_ROTARY_UNIT = 16
"""What the size of a head must be a multiple of where the kernel turns it."""


@dataclass
class FuseGroupQuery(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES
    rotary: bool = False
    """Take rotary positions in. The kernel then refuses more positions than the tables have rows."""

    def rules(self) -> Iterable[NodeRule]:
        yield BehindCache(self.rotary)


class BehindCache(NodeRule):
    """The standard's Attention with a cache."""

    roots = ("Attention",)

    def __init__(self, rotary: bool) -> None:
        self.rotary = rotary
        self.bounds = Bounds()

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        q, k, v, mask, past_key, past_value = _operands(r, node)
        self._require_mask(node, mask, k, past_key)
        rotary = _rotary(q, k, past_key) if self.rotary else None
        queries, keys = (q, k) if rotary is None else (rotary[0].inputs[0], rotary[1].inputs[0])
        turned: list[Value | None] = [] if rotary is None else list(rotary[0].inputs[1:4])
        r.begin(node, origin_of([node] if rotary is None else [*rotary, node]))
        last, total = _lengths(r, k, past_key)
        rest = [*(turned or [None] * 3), mask]
        while rest and rest[-1] is None:
            rest.pop()
        attrs: dict[str, Any] = {
            "num_heads": node.attrs["q_num_heads"],
            "kv_num_heads": node.attrs["kv_num_heads"],
            "scale": node.attrs.get("scale"),
            "causal": 0,
        }
        if rotary is not None:
            attrs |= {"do_rotary": 1, "rotary_interleaved": rotary[0].attr("interleaved", 0)}
        return r.op(
            f"{CONTRIB}::GroupQueryAttention",
            queries,
            keys,
            v,
            past_key,
            past_value,
            last,
            total,
            *rest,
            _outputs=3,
            **attrs,
        )

    def _require_mask(self, node: Node, mask: Value | None, k: Value, past: Value) -> None:
        if mask is None:
            return
        q = node.inputs[0]
        if mask.rank != 4 or mask.shape is None or q is None or mask.dtype is not q.dtype:
            raise NoMatch(f"the mask is {mask.type}, expected rank 4 of the queries' type")
        assert q.shape is not None
        assert k.shape is not None
        assert past.shape is not None
        whole = same_dim(mask.shape[2], q.shape[1])
        if not whole or mask.shape[1] not in (1, node.attrs["q_num_heads"]):
            raise NoMatch(f"the mask is {mask.type} for {q.type}")
        total = add(past.shape[2], k.shape[1])
        # The standard's kernel takes a mask of all columns only, ONNX Runtime widens none: an unknown number is theirs.
        if isinstance(mask.shape[3], int) and not same_dim(mask.shape[3], total):
            raise NoMatch(f"the mask has {mask.shape[3]} columns, there are {total} keys")
        if not _has_floor(mask) and self.bounds.of(mask) is None:
            raise NoMatch("the mask is not known to be above -inf")


def _has_floor(mask: Value) -> bool:
    """Whether a Max with a number made the mask, or a choice between numbers."""
    node = mask.producer
    if node is not None and node.op == "Expand" and not node.domain and node.inputs[0] is not None:
        node = node.inputs[0].producer
    if node is None or node.domain or node.op not in ("Max", "Where"):
        return False
    numbers = [scalar_value(v, node) for v in node.inputs]
    finite = [n for n in numbers if isinstance(n, float) and math.isfinite(n)]
    return bool(finite) if node.op == "Max" else len(finite) == 2


def _operands(r: Rewriter, node: Node) -> tuple[Value, Value, Value, Value | None, Value, Value]:
    target = r.ctx.target
    if not allows_contrib(r) or target is None or target.runtime != "ort" or r.opset() < _OPSET:
        raise NoMatch("the target has no operators of ONNX Runtime")
    q, k, v, mask, past_key, past_value = (node.input(i) for i in range(6))
    if q is None or k is None or v is None or past_key is None or past_value is None or node.input(6) is not None:
        raise NoMatch("there is no cache")
    if q.dtype is not DType.F32 and not (q.dtype is DType.F16 and target.arch == "cuda"):
        raise NoMatch(f"no kernel for {q.dtype!r}")
    if extra := sorted(set(node.attrs) - _ATTRIBUTES):
        raise NoMatch(f"{', '.join(extra)} is given")
    if node.attr("is_causal", 0) or (len(node.outputs) > 3 and node.outputs[3].uses):
        raise NoMatch("is_causal counts from the first key, or the scores are a result")
    if q.shape is None or 1 not in q.shape[:2]:
        raise NoMatch(f"queries are {q.type}: the kernel takes one sequence or one new position (bind them by --dim)")
    if not q.rank == k.rank == v.rank == 3 or "q_num_heads" not in node.attrs or past_key.shape is None:
        raise NoMatch("heads are split before")
    size = past_key.shape[3]
    if not isinstance(size, int) or past_value.shape is None or past_value.shape[3] != size:
        raise NoMatch("keys and values of different sizes")
    return q, k, v, mask, past_key, past_value


def _rotary(q: Value, k: Value, past: Value) -> tuple[Node, Node] | None:
    """The two RotaryEmbedding in front, where both look up the same rows of the same tables and nothing else reads
    them."""
    a, b = q.producer, k.producer
    if a is None or b is None or any(n.op != "RotaryEmbedding" or n.domain for n in (a, b)):
        return None
    alone = len(q.uses) == 1 and len(k.uses) == 1
    looked_up = a.input(3) is not None and all(a.input(i) is b.input(i) for i in (1, 2, 3))
    whole = all(n.attr("rotary_embedding_dim", 0) == 0 for n in (a, b))
    alike = a.attr("interleaved", 0) == b.attr("interleaved", 0)
    size = past.shape[3] if past.shape is not None else None
    taken = isinstance(size, int) and size % _ROTARY_UNIT == 0
    return (a, b) if alone and looked_up and whole and alike and taken else None


def _lengths(r: Rewriter, k: Value, past: Value) -> tuple[Value, Value]:
    """[B] the last position of every sequence, and [] how many positions there are, both int32."""
    known = add(past.shape[2], k.shape[1]) if past.shape is not None and k.shape is not None else None
    if isinstance(known, int):  # ONNX Runtime's inference carries computed numbers as int64, and then refuses them here
        last = r.Expand(r.const(np.array([known - 1], np.int32)), r.Shape(k, start=0, end=1))
        return last, r.const(np.array(known, np.int32))
    total = r.Add(r.Shape(past, start=2, end=3), r.Shape(k, start=1, end=2))
    narrow = r.Cast(total, to=DType.I32.code)
    last = r.Expand(r.Sub(narrow, r.const(np.array([1], np.int32))), r.Shape(k, start=0, end=1))
    return last, squeeze(r, narrow, [0])
