"""Operators of language models with a cache (grouped-query attention, rotary sections, causal convolution) in standard
operators.

Source: the registry's schemas of ONNX Runtime 1.31; compared with its CPU kernels, whose rows beyond a
sequence's length hold nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from .emit import CONTRIB, reduce_to_one, split, squeeze, unsqueeze
from .equations import Equation, Results, activated, extent, ints, is_used, narrowed, operand, rank_of, require, widened

_HEADS_FIRST = (0, 2, 1, 3)
_HIDDEN = -math.inf
"""Added to scores that do not count: every position sees one at least."""


@dataclass
class _Grouped:
    """A GroupQueryAttention: ``[B, S, heads * D]`` queries that share ``kv_heads`` keys and values."""

    heads: int
    kv_heads: int
    size: int
    start: Value
    """``[B, 1]``: how many positions each sequence had before."""
    steps: Value
    """``[1]``: S."""


def _grouped(r: Rewriter, node: Node) -> Results:
    _refuse_variants(r, node)
    q, k, v, g = _operands(r, node)
    positions = _range(r, g.steps)  # [S]
    at = r.Add(g.start, unsqueeze(r, positions, [0]))  # [B, S]
    if node.attr("do_rotary", 0):
        given = node.input(9)
        rows = at if given is None else given
        interleaved = bool(node.attr("rotary_interleaved", 0))
        q, k = (turned(r, x, operand(node, 7), operand(node, 8), rows, interleaved) for x in (q, k))
    key, value, length = _appended(r, node, g, k, v)
    y = _attend(r, node, g, q, key, value, at, length)
    return [y, key if is_used(node, 1) else None, value if is_used(node, 2) else None, None]


def _refuse_variants(r: Rewriter, node: Node) -> None:
    require(
        r,
        node,
        absent=(12, 13, 14, 15),
        sliding_window_cache=0,
        k_quant_type="NONE",
        v_quant_type="NONE",
    )
    if is_used(node, 3):
        raise NoMatch("the scores of GroupQueryAttention are a result")
    past = node.input(3)
    if past is not None and past.dtype is not operand(node, 0).dtype:
        raise NoMatch("the cache of GroupQueryAttention is quantized")


def _operands(r: Rewriter, node: Node) -> tuple[Value, Value, Value, _Grouped]:
    """Queries, keys and values as ``[B, heads, S, D]``."""
    heads, kv_heads = int(node.attr("num_heads")), int(node.attr("kv_num_heads"))
    query, key, value = operand(node, 0), node.input(1), node.input(2)
    if key is None or value is None:
        size = extent(query, 2) // (heads + 2 * kv_heads)
        q, k, v = split(r, query, [heads * size, kv_heads * size, kv_heads * size], -1)
    else:
        size = extent(query, 2) // heads
        q, k, v = query, key, value
    steps = r.Shape(query, start=1, end=2)
    seen = r.Add(r.Cast(operand(node, 5), to=DType.I64.code), ints(1))
    start = r.Max(r.Sub(r.Reshape(seen, ints(-1, 1)), steps), ints(0))
    g = _Grouped(heads, kv_heads, size, start, steps)
    q, k, v = (_heads(r, x, n, size) for x, n in ((q, heads), (k, kv_heads), (v, kv_heads)))
    return q, k, v, g


def _heads(r: Rewriter, x: Value, heads: int, size: int) -> Any:
    return r.Transpose(r.Reshape(x, ints(0, 0, heads, size)), perm=_HEADS_FIRST)


def _range(r: Rewriter, count: Value) -> Any:
    """0 to ``count`` (one element) - 1."""
    return r.Range(r.const(np.int64(0)), squeeze(r, count, [0]), r.const(np.int64(1)))


def turned(r: Rewriter, x: Value, cos: Value, sin: Value, rows: Value, interleaved: bool) -> Any:
    """Rotary embedding of ``[B, N, S, D]`` by rows ``[B, S]`` of tables ``[positions, R/2]``; the first R of D turn."""
    tables = [unsqueeze(r, r.Gather(t, rows, axis=0), [1]) for t in (cos, sin)]
    return rotated(r, x, tables[0], tables[1], interleaved)


def rotated(r: Rewriter, x: Value, cos: Value, sin: Value, interleaved: bool) -> Any:
    """``[B, N, S, D]`` turned by cosines and sines that broadcast to ``[B, N, S, R/2]``."""
    half, size = extent(cos, -1), extent(x, -1)
    rest: list[Any] = []
    if 2 * half < size:
        x, *rest = split(r, x, [2 * half, size - 2 * half], -1)
    if interleaved:
        pairs = r.Reshape(x, ints(0, 0, 0, half, 2))
        low, high = (squeeze(r, part, [-1]) for part in split(r, pairs, [1, 1], -1))
    else:
        low, high = split(r, x, [half, half], -1)
    first = r.Sub(r.Mul(low, cos), r.Mul(high, sin))
    second = r.Add(r.Mul(low, sin), r.Mul(high, cos))
    if interleaved:
        made = r.Concat(unsqueeze(r, first, [-1]), unsqueeze(r, second, [-1]), axis=-1)
        y = r.Reshape(made, ints(0, 0, 0, 2 * half))
    else:
        y = r.Concat(first, second, axis=-1)
    return r.Concat(y, *rest, axis=-1) if rest else y


def _appended(r: Rewriter, node: Node, g: _Grouped, k: Value, v: Value) -> tuple[Value, Value, Value]:
    """Keys and values with the new ones written behind each sequence's past; ``[1]``: how many positions there are."""
    pasts = node.input(3), node.input(4)
    if pasts[0] is None or pasts[1] is None:
        return k, v, g.steps
    total = r.Reshape(r.Cast(operand(node, 6), to=DType.I64.code), ints(1))
    before = r.Shape(pasts[0], start=2, end=3)
    length = r.Max(total, before)
    where = r.Sub(unsqueeze(r, _range(r, length), [0]), g.start)  # [B, L]: index among the new ones
    new = unsqueeze(r, r.And(r.GreaterOrEqual(where, ints(0)), r.Less(where, g.steps)), [1, 3])
    taken = r.Min(r.Max(where, ints(0)), r.Sub(g.steps, ints(1)))
    made: list[Value] = []
    for past, x in zip(pasts, (k, v), strict=True):
        assert past is not None
        zero = r.const(np.zeros(1, np.int64))
        pads = r.Concat(r.const(np.zeros(6, np.int64)), r.Sub(length, before), zero, axis=0)
        counts = r.Concat(r.Shape(x, start=0, end=2), length, r.Shape(x, start=3, end=4), axis=0)
        rows = r.GatherElements(x, r.Expand(unsqueeze(r, taken, [1, 3]), counts), axis=2)
        made.append(r.Where(new, rows, r.Pad(past, pads)))
    return made[0], made[1], length


def _attend(r: Rewriter, node: Node, g: _Grouped, q: Value, key: Value, value: Value, at: Value, length: Value) -> Any:
    """The result ``[B, S, heads * D]``. Heads in groups of ``heads / kv_heads`` share a key."""
    scale = float(node.attr("scale", 0.0) or 0.0) or 1.0 / math.sqrt(g.size)
    group = g.heads // g.kv_heads
    rows = r.Reshape(q, r.Concat(ints(0, g.kv_heads, group), r.Shape(q, start=2, end=4), axis=0))
    wide = [widened(r, x) for x in (rows, unsqueeze(r, key, [2]), unsqueeze(r, value, [2]))]
    scores = r.Mul(r.MatMul(wide[0], r.Transpose(wide[1], perm=(0, 1, 2, 4, 3))), scale)  # [B, kv, group, S, L]
    cap = float(node.attr("softcap", 0.0) or 0.0)
    scores = scores if cap == 0 else r.Mul(r.Tanh(r.Div(scores, cap)), cap)
    bias = node.input(10)
    if bias is not None:
        scores = r.Add(scores, _by_group(r, widened(r, bias), g))
    scores = r.Add(scores, _mask(r, node, at, length))
    y = r.MatMul(_softmax(r, node, g, scores), wide[2])
    y = r.Transpose(y, perm=(0, 3, 1, 2, 4))
    return narrowed(r, r.Reshape(y, ints(0, 0, g.heads * g.size)), q)


def _by_group(r: Rewriter, bias: Value, g: _Grouped) -> Any:
    """``[B, heads or 1, S, L]`` as ``[B, kv, group, S, L]``."""
    if extent(bias, 1) == 1:
        return unsqueeze(r, bias, [1])
    return r.Reshape(bias, r.Concat(ints(0, g.kv_heads, -1), r.Shape(bias, start=2, end=4), axis=0))


def _mask(r: Rewriter, node: Node, at: Value, length: Value) -> Any:
    """``[B, 1, 1, S, L]``: 0 where a position sees another, else a number that leaves nothing of the score."""
    rows = unsqueeze(r, at, [2])  # [B, S, 1]
    columns = unsqueeze(r, _range(r, length), [0, 1])
    if node.attr("causal", 1):
        seen = r.LessOrEqual(columns, rows)
    else:  # up to the end of the sequence
        ends = r.Cast(operand(node, 5), to=DType.I64.code)
        seen = r.LessOrEqual(columns, r.Max(unsqueeze(r, ends, [1, 2]), r.Mul(rows, ints(0))))
    window = int(node.attr("local_window_size", -1))
    if window > 0:
        seen = r.And(seen, r.Greater(columns, r.Sub(rows, ints(window))))
    return unsqueeze(r, r.Where(seen, np.float32(0), np.float32(_HIDDEN)), [1, 2])


def _softmax(r: Rewriter, node: Node, g: _Grouped, scores: Value) -> Any:
    """With a sink a further score, of one head or 0, takes its share and gives nothing."""
    sink = node.input(11)
    if sink is None and int(node.attr("smooth_softmax", -1)) <= 0:
        return r.Softmax(scores, axis=-1)
    extra: Value = r.const(np.zeros((1, 1, 1, 1, 1), np.float32))
    if sink is not None:
        extra = r.Reshape(widened(r, sink), ints(1, g.kv_heads, g.heads // g.kv_heads, 1, 1))
    top = r.Max(reduce_to_one(r, "ReduceMax", scores, [-1]), extra)
    powers = r.Exp(r.Sub(scores, top))
    return r.Div(powers, r.Add(r.ReduceSum(powers, ints(-1), keepdims=1), r.Exp(r.Sub(extra, top))))


# -- rotary sections


def _sections(r: Rewriter, node: Node) -> Results:
    """MRotaryEmbedding: three positions a token, each of which turns its share of the channels."""
    require(r, node, is_packed_batching=0)
    x, positions, cos, sin = (operand(node, i) for i in range(4))
    half = extent(cos, 1)
    counts = [int(c) for c in node.attr("mrope_section")]
    if rank_of(positions) != 3 or extent(positions, 0) != 3 or sum(counts) != half:
        raise NoMatch(f"positions {positions.type} and sections {counts} of a cache of {half}")
    axis = _section_of(counts, half, int(node.attr("mrope_layout", 0) or 0))
    tables = [_chosen(r, table, positions, axis) for table in (cos, sin)]
    packed = rank_of(x) == 3
    if packed:
        heads = int(node.attr("num_heads", 0) or 0) or extent(x, 2) // (2 * half)
        data = _heads(r, x, heads, extent(x, 2) // heads)
    else:
        data = x
    y = rotated(r, data, tables[0], tables[1], bool(node.attr("interleaved", 0)))
    scale = float(node.attr("scale", 1.0) or 1.0)
    y = y if scale == 1 else r.Mul(y, scale)
    return [r.Reshape(r.Transpose(y, perm=_HEADS_FIRST), ints(0, 0, extent(x, 2))) if packed else y]


def _section_of(counts: list[int], half: int, layout: int) -> list[int]:
    """Which of the three positions each channel takes."""
    if layout == 0:
        return [i for i, count in enumerate(counts) for _ in range(count)]
    found = [0] * half
    for i in (1, 2):
        for k in range(i, counts[i] * 3, 3):
            if k < half:
                found[k] = i
    return found


def _chosen(r: Rewriter, table: Value, positions: Value, axis: list[int]) -> Any:
    """``[B, 1, S, R/2]``: of ``[3, B, S, R/2]`` rows of the table the one that each channel takes."""
    rows = r.Gather(table, positions, axis=0)
    parts = split(r, rows, [1, 1, 1], 0)
    chosen = np.array(axis)
    y = r.Where(chosen == 1, parts[1], r.Where(chosen == 2, parts[2], parts[0]))
    return r.Transpose(y, perm=(1, 0, 2, 3))


# -- causal convolution


def _causal_conv(r: Rewriter, node: Node) -> Results:
    """The past in front of the data, then a depthwise convolution; what is left at the end is the new past."""
    require(r, node, ndim=1, state_window=0, channels_last=0)
    x, w, bias, past = operand(node, 0), operand(node, 1), node.input(2), node.input(3)
    channels, width = extent(w, 0), extent(w, 2)
    dilation = int(node.attr("dilation", 1))
    kept = (width - 1) * dilation
    if past is None:
        data = r.Pad(x, ints(0, 0, kept, 0, 0, 0))
    else:
        data = r.Concat(past, x, axis=2)
    operands = [data, w, *([] if bias is None else [bias])]
    y = r.op("Conv", *operands, group=channels, dilations=(dilation,))
    state = None
    if is_used(node, 1):
        if not kept:
            raise NoMatch("the state of a kernel of one tap is empty")
        state = r.Slice(data, ints(-kept), ints(2**62), ints(2))
    return [activated(r, y, str(node.attr("activation", "none"))), state]


CACHED_EQUATIONS: dict[tuple[str, str], Equation] = {
    (CONTRIB, "GroupQueryAttention"): _grouped,
    (CONTRIB, "MRotaryEmbedding"): _sections,
    (CONTRIB, "CausalConvWithState"): _causal_conv,
}
