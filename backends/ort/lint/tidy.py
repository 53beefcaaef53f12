"""What ONNX Runtime 1.31 tidies up first: no-ops, double pairs, equal nodes, constants, transposes that meet.

Sources, by file of the runtime: ``common_subexpression_elimination.cc``, ``constant_sharing.cc``,
``constant_folding.cc``, ``double_qdq_pairs_remover.cc``, ``transpose_optimizer.cc``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....ir.dtypes import DType
from ....ir.graph import Graph, Node, Value
from ... import pairs as p
from .work import Work

_RANDOM = (
    "RandomUniform",
    "RandomNormal",
    "RandomUniformLike",
    "RandomNormalLike",
    "Multinomial",
    "Dropout",
    "Bernoulli",
)
_SHARED_TYPES = (DType.F32, DType.F16, DType.BF16, DType.F64, DType.I32, DType.I64)
_SHARED_ELEMENTS = 8
"""Constants up to this many elements are the same where they hold the same."""


def drop_identities(work: Work) -> bool:
    """Identity, and Dropout outside of training."""
    found = [n for n in p.nodes(work.graph) if n.domain == "" and n.op == "Identity" and _removable(n)]
    for node in found:
        work.drop(node, "it changes nothing")
        p.pass_by(node)
    return bool(found)


def _removable(node: Node) -> bool:
    """What the graph returns can also come from the node in front, where nobody else reads that."""
    source = node.input(0)
    if not p.returned(node) or source is None:
        return not p.returned(node)
    if len(source.uses) > 1 or len(node.output.uses) > 1:
        return False
    return source.producer is not None and source.producer.graph is node.graph


def drop_double_pairs(work: Work) -> bool:
    """Q, DQ, Q, DQ in a row become one pair, with the narrower of both ranges."""
    changed = False
    for inner in p.nodes(work.graph):
        chain = _double_pair(inner)
        if chain is None:
            continue
        first, second, last = chain
        _narrow(work.graph, inner, second, (first, *last))
        for node in last:
            node.set_input(0, first.output)
        for node in (second, inner):
            work.drop(node, "two pairs in a row are one")
            node.erase()
        changed = True
    return changed


def _double_pair(inner: Node) -> tuple[Node, Node, list[Node]] | None:
    source = inner.input(0)
    first = source.producer if source is not None else None
    if not p.is_dequantize(inner) or not p.is_quantize(first):
        return None
    second = p.only_reader(inner)
    if not p.is_quantize(second) or not p.has_edges(first, 1) or p.returned(second):
        return None
    last = [user for user, _ in p.out_edges(second)]
    if not last or not all(p.is_dequantize(n) for n in last):
        return None
    if p.equal_parameters(first, inner) or any(p.equal_parameters(second, n) for n in last):
        return None
    return (first, second, last) if p.stored(inner) is p.stored(second) in (DType.U8, DType.I8) else None


def _narrow(graph: Graph, a: Node, b: Node, ends: Sequence[Node]) -> None:
    """Gives ``ends`` the range that both pairs keep."""
    dtype = p.stored(a)
    assert dtype is not None
    low, high = np.iinfo(dtype.numpy).min, np.iinfo(dtype.numpy).max
    scales = [np.float32(p.number(n, p.SCALE)) for n in (a, b)]
    zeros = [int(p.number(n, p.ZERO)) for n in (a, b)]
    if zeros[0] == zeros[1] and scales[0] == scales[1]:
        return
    real_low = max(np.float32(low - z) * s for z, s in zip(zeros, scales, strict=True))
    real_high = min(np.float32(high - z) * s for z, s in zip(zeros, scales, strict=True))
    scale = np.float32((real_high - real_low) / np.float32(high - low))
    zero = np.round(np.float32(low) - real_low / scale)
    for node in ends:
        node.set_input(p.SCALE, p.constant(graph, scale))
        node.set_input(p.ZERO, p.constant(graph, np.array(zero).astype(dtype.numpy)))


def share_constants(work: Work) -> bool:
    """Small constants that hold the same become one."""
    known: dict[object, Value] = {}
    for value in list(work.graph.constants):
        data = value.data
        if data is None or data.count > _SHARED_ELEMENTS or data.dtype not in _SHARED_TYPES:
            continue
        first = known.setdefault((data.dtype, data.shape, data.tobytes()), value)
        if first is not value:
            value.replace_uses(first)
    return False


def merge_equal(work: Work) -> bool:
    """Nodes that compute the same of the same become one."""
    known: dict[object, Node] = {}
    changed = False
    for node in p.nodes(work.graph):
        key = _key(node)
        twin = known.setdefault(key, node) if key is not None else node
        if twin is node or p.returned(node):
            continue
        for mine, other in zip(node.outputs, twin.outputs, strict=True):
            mine.replace_uses(other)
        work.drop(node, "another node computes the same")
        node.erase()
        changed = True
    return changed


def _key(node: Node) -> object | None:
    if node.subgraphs or node.op in _RANDOM or not node.inputs or p.is_pair_member(node):
        return None
    operands = tuple(v for v in node.inputs)
    attrs = tuple((k, str(node.attrs[k])) for k in sorted(node.attrs))
    return (node.domain, node.op, len(node.outputs), operands, attrs)


def fold(work: Work) -> bool:
    """Nodes of constants become constants; DequantizeLinear only with the node and the QuantizeLinear behind it."""
    changed = False
    for node in p.nodes(work.graph):
        if not _foldable(node) or any(v is not None and v.data is None for v in node.inputs):
            continue
        if p.is_dequantize(node) and not _folds_through(node):
            continue
        made = [p.placeholder(work.graph, v) for v in node.outputs]
        if any(v is None for v in made):
            continue
        for old, new in zip(node.outputs, made, strict=True):
            assert new is not None
            old.replace_uses(new)
        work.drop(node, "it is computed once, when the model is loaded")
        node.erase()
        changed = True
    return changed


def _foldable(node: Node) -> bool:
    return not node.subgraphs and node.op not in _RANDOM and not p.returned(node) and bool(node.inputs)


def _folds_through(node: Node) -> bool:
    middle = p.only_reader(node)
    if middle is None or len(middle.inputs) != 1 or len(middle.outputs) != 1 or not _foldable(middle):
        return False
    return p.is_quantize(p.only_reader(middle))


def cancel_transposes(work: Work) -> bool:
    """Two Transpose nodes that undo each other vanish, also with a pair between them."""
    changed = False
    for node in p.nodes(work.graph):
        source = node.input(0) if node.op == "Transpose" and node.domain == "" else None
        first = _transpose_before(source)
        if source is None or first is None or not p.has_edges(first, 1) or p.returned(node):
            continue
        inner, outer = first.attr("perm"), node.attr("perm")
        if inner is None or outer is None or tuple(inner[i] for i in outer) != tuple(range(len(inner))):
            continue
        for gone in (node, first):
            work.drop(gone, "two Transpose nodes in a row undo each other")
            p.pass_by(gone)
        changed = True
    return changed


def _transpose_before(source: Value | None) -> Node | None:
    """The Transpose in front of ``source``, directly or with a pair of one scale between."""
    direct = p.producer_of(source, "Transpose")
    dq = source.producer if source is not None else None
    if direct is not None or not p.is_dequantize(dq) or not p.has_edges(dq, 1):
        return direct
    stored = dq.inputs[0]
    q = stored.producer if stored is not None else None
    if not p.is_quantize(q) or not p.has_edges(q, 1) or not p.is_scalar(q.input(p.SCALE)):
        return None
    return p.producer_of(q.inputs[0], "Transpose")
