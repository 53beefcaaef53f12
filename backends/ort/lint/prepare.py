"""What ONNX Runtime 1.31 does to a model before it looks for integer kernels (its level 1), as far as they matter.

Each function changes the graph in place and says whether it did. Sources, by file of the runtime:
``common_subexpression_elimination.cc``, ``constant_folding.cc``, ``double_qdq_pairs_remover.cc``,
``matmul_add_fusion.cc``, ``qdq_propagation.cc``, ``weight_bias_quantization.cc``, ``where_dummy_dq.cc``,
``ensure_unique_dq_for_node_unit.cc``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ....ir.constants import Constant, SplatConstant
from ....ir.dtypes import DType
from ....ir.graph import Graph, Node, Value
from . import pairs as p

STEPS = 10
"""Rounds after which the runtime stops by itself."""
_PROPAGATES = ("MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice")
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
_BIASED = ("Conv", "ConvTranspose", "Gemm")


@dataclass
class Work:
    """A graph in work, and which node of the model each of its nodes stands for."""

    graph: Graph
    origin: dict[Node, Node]
    gone: dict[Node, str] = field(default_factory=dict[Node, str])
    """Nodes of the model that vanished, and why."""

    def drop(self, node: Node, why: str) -> None:
        """``node`` is about to vanish."""
        if node in self.origin:
            self.gone[self.origin[node]] = why


def prepare(work: Work) -> None:
    """Level 1, until nothing changes."""
    for _ in range(STEPS):
        changed = [step(work) for step in _PASSES]
        if not any(changed):
            return


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
    return source.producer is not None and source.producer.graph is node.graph and len(source.uses) == 1


def drop_double_pairs(work: Work) -> bool:
    """Q, DQ, Q, DQ in a row become one pair, with the narrower of both ranges."""
    changed = False
    for inner in p.nodes(work.graph):
        chain = _double_pair(inner)
        if chain is None:
            continue
        first, second, last = chain
        _narrow(work.graph, inner, second, (first, last))
        last.set_input(0, first.output)
        for node in (second, inner):
            work.drop(node, "two pairs in a row are one")
            node.erase()
        changed = True
    return changed


def _double_pair(inner: Node) -> tuple[Node, Node, Node] | None:
    source = inner.input(0)
    first = source.producer if source is not None else None
    if not p.is_dequantize(inner) or not p.is_quantize(first):
        return None
    second = p.only_reader(inner)
    last = p.only_reader(second) if p.is_quantize(second) else None
    if second is None or not p.has_edges(first, 1) or not p.is_dequantize(last):
        return None
    if p.equal_parameters(first, inner) or p.equal_parameters(second, last):
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


def fuse_bias(work: Work) -> bool:
    """MatMul and Add become Gemm, with Reshape nodes around it where the left operand is no matrix."""
    changed = False
    for node in p.nodes(work.graph):
        add = p.only_reader(node) if node.op == "MatMul" and node.domain == "" else None
        if add is None or add.op != "Add" or add.domain != "":
            continue
        a, b = node.inputs[0], node.inputs[1]
        bias = add.inputs[1] if add.inputs[0] is node.output else add.inputs[0]
        if a is not None and b is not None and bias is not None and _gemm_takes(a, b, bias):
            _make_gemm(work, node, add, bias, flat=a.rank != 2)
            changed = True
    return changed


def _gemm_takes(a: Value, b: Value, bias: Value) -> bool:
    if a.dtype not in (DType.F32, DType.F16, DType.BF16) or bias.dtype is not a.dtype or b.rank != 2:
        return False
    left, right, shape = a.shape, b.shape, bias.shape
    if left is None or right is None or shape is None:
        return False
    flat = len(left) != 2
    if flat and not (all(isinstance(d, int) for d in (*left, *right))):
        return False
    n = right[1]
    if len(shape) == 1:
        return n is not None and shape[0] == n
    if flat or len(shape) != 2 or n is None:
        return False
    return (shape[0] == 1 and shape[1] == n) or (shape[0] == left[0] and left[0] is not None and shape[1] in (1, n))


def _make_gemm(work: Work, node: Node, add: Node, bias: Value, *, flat: bool) -> None:
    graph = work.graph
    gemm = Node("Gemm", [node.inputs[0], node.inputs[1], bias], name=f"{node.name}/MatMulAddFusion")
    graph.insert_before(add, gemm)
    result = gemm.output
    if flat:
        before = Node("Reshape", [node.inputs[0], p.constant(graph, np.array([-1], np.int64))])
        after = Node("Reshape", [gemm.output, p.constant(graph, np.array([-1], np.int64))])
        graph.insert_before(gemm, before)
        graph.insert_after(gemm, after)
        gemm.set_input(0, before.output)
        result = after.output
    result.type, gemm.output.type = add.output.type, gemm.output.type or node.output.type
    add.output.replace_uses(result)
    work.origin[gemm] = work.origin.get(node, node)
    if add in work.origin:
        work.gone[work.origin[add]] = f"with {node.name or node.op} in front of it it is one Gemm"
    for old in (add, node):
        old.erase()


def fuse_reshape(work: Work) -> bool:
    """A Reshape whose shape is a Concat of extents of its operand, numbers and at most one other: a constant shape."""
    changed = False
    for node in p.nodes(work.graph):
        shape = node.input(1) if node.op == "Reshape" and node.domain == "" else None
        concat = shape.producer if shape is not None else None
        if concat is None or concat.op != "Concat" or not p.has_edges(concat, 1) or not _known_shape(node, concat):
            continue
        node.set_input(1, p.constant(work.graph, np.array([0, -1], np.int64)))
        _drop_unread(work, concat, "the shape is made constant")
        changed = True
    return changed


def _known_shape(reshape: Node, concat: Node) -> bool:
    position = open_extents = 0
    for value in concat.inputs:
        if value is None:
            return False
        if value.data is not None:
            position += value.data.count
            open_extents += int((value.numpy() == -1).sum())
            continue
        if value.shape != (1,):
            return False
        open_extents += not _is_extent(value, position, reshape.inputs[0])
        position += 1
    return open_extents <= 1


def _is_extent(value: Value, position: int, of: Value | None) -> bool:
    """Whether ``value`` is Unsqueeze(Gather(Shape(of), position))."""
    gather = _producer(value, "Unsqueeze")
    gather = _producer(gather.inputs[0], "Gather") if gather is not None else None
    shape = _producer(gather.inputs[0], "Shape") if gather is not None else None
    if gather is None or shape is None or shape.inputs[0] is not of:
        return False
    return p.constant_scalar(gather, 1) and int(p.number(gather, 1)) == position


def _producer(value: Value | None, op: str) -> Node | None:
    node = value.producer if value is not None else None
    return node if node is not None and node.op == op and node.domain == "" else None


def _drop_unread(work: Work, node: Node, why: str) -> None:
    """Removes ``node`` and what only it needed."""
    todo = [node]
    while todo:
        node = todo.pop()
        if node.erased or any(v.uses for v in node.outputs):
            continue
        todo.extend(v.producer for v in node.inputs if v is not None and v.producer is not None)
        work.drop(node, why)
        node.erase()


def propagate(work: Work) -> bool:
    """Pairs travel through movement of data, away from where they stand."""
    changed = False
    for node in p.nodes(work.graph):
        if p.is_quantize(node) and _movable(node):
            changed |= _backward(work.graph, node)
    for node in p.nodes(work.graph):
        if p.is_dequantize(node) and _movable(node) and p.has_edges(node, 1):
            changed |= _forward(work.graph, node)
    return changed


def _movable(node: Node) -> bool:
    zero = node.input(p.ZERO)
    return p.constant_scalar(node, p.SCALE) and (zero is None or p.constant_scalar(node, p.ZERO))


def _can_carry(node: Node) -> bool:
    return node.domain == "" and node.op in _PROPAGATES and not (node.op == "MaxPool" and node.version < 12)


def _forward(graph: Graph, source: Node) -> bool:
    changed = False
    todo = [p.out_edges(source)[0]]
    while todo:
        mover, _ = todo.pop()
        if mover.graph is not graph or not _can_carry(mover):
            continue
        value = mover.outputs[0]
        targets = [e for e in value.uses if not p.is_quantize(e[0])]
        if any(user.graph is not graph for user, _ in targets):
            continue
        if targets:
            _insert(graph, source, value, targets)
            changed = True
            todo.extend(e for e in targets if not e[0].is_return)
    return changed


def _backward(graph: Graph, source: Node) -> bool:
    changed = False
    edge = _edge_before(source)
    while edge is not None:
        mover = edge.producer
        if mover is None or not _can_carry(mover):
            break
        edge = _edge_before(mover)
        if edge is None or p.is_dequantize(edge.producer) or edge.data is not None:
            break
        _insert(graph, source, edge, [(mover, 0)])
        changed = True
    return changed


def _edge_before(node: Node) -> Value | None:
    """Operand 0 where ``node`` is its only reader (of inputs of the graph: where it reads it)."""
    value = node.inputs[0]
    if value is None or value.producer is None:
        return value if value is not None and value.graph is node.graph else None
    return value if len(p.edges(value)) == 1 and not value.is_output and value.producer.graph is node.graph else None


def _insert(graph: Graph, like: Node, value: Value, targets: Sequence[tuple[Node, int]]) -> None:
    """A pair with the parameters of ``like`` between ``value`` and ``targets``, a DequantizeLinear for each."""
    parameters = like.inputs[1:]
    quantize = Node("QuantizeLinear", [value, *parameters], domain=like.domain)
    quantize.output.type = value.tensor.with_dtype(p.stored(like)) if value.tensor is not None else None
    if value.producer is not None:
        graph.insert_after(value.producer, quantize)
    else:
        graph.insert_before(targets[0][0], quantize)
    for user, i in targets:
        dequantize = Node("DequantizeLinear", [quantize.output, *parameters], domain=like.domain)
        dequantize.output.type = value.type
        graph.insert_after(quantize, dequantize)
        user.set_input(i, dequantize.output)


def quantize_weights(work: Work) -> bool:
    """Float weights and biases of Conv, ConvTranspose and Gemm between pairs are quantized by the runtime itself."""
    changed = False
    for node in p.nodes(work.graph):
        if node.domain == "" and node.op in _BIASED and _between_pairs(node):
            changed |= _quantize_operands(work.graph, node)
    return changed


def _between_pairs(node: Node) -> bool:
    source = node.input(0)
    first = source.producer if source is not None else None
    if not p.is_dequantize(first) or not p.is_scalar(first.input(p.SCALE)):
        return False
    current = node
    while True:
        readers = p.out_edges(current)
        if len(current.outputs) != 1 or len(readers) != 1 or readers[0][0].graph is not node.graph:
            return False
        if p.is_quantize(readers[0][0]):
            return True
        current = readers[0][0]
        if current.op not in ("Relu", "Clip"):
            return False


def _quantize_operands(graph: Graph, node: Node) -> bool:
    weight, bias = node.inputs[1], node.input(2)
    assert weight is not None
    dq = weight.producer
    if not p.is_dequantize(dq) and (weight.data is None or weight.dtype is not DType.F32):
        return False
    if bias is not None and (bias.data is None or bias.rank != 1):
        return False
    if p.is_dequantize(dq) and (bias is None or not _axis_fits(node, dq, bias)):
        return False
    if not p.is_dequantize(dq):
        scale, zero = p.constant(graph, np.float32(1)), p.constant(graph, np.int8(0))
        node.set_input(1, _stand_in(graph, node, weight, DType.I8, [scale, zero]))
    if bias is not None:
        scales = [dq.inputs[p.SCALE] for dq in p.dequantizers(node)[:2]]
        if any(v is None or v.data is None for v in scales):
            return True
        known = [v.numpy() for v in scales if v is not None]
        node.set_input(2, _stand_in(graph, node, bias, DType.I32, [p.constant(graph, known[0] * known[1])]))
    return True


def _axis_fits(node: Node, dq: Node, bias: Value) -> bool:
    """Whether the weight's scales are one, or one for each element of the bias along the right axis."""
    scale, weight = dq.input(p.SCALE), dq.input(0)
    if p.is_scalar(scale):
        return True
    if scale is None or weight is None or scale.rank != 1 or scale.shape != bias.shape or dq.attr("block_size", 0):
        return False
    axis = int(dq.attr("axis", 1))
    axis = axis + (weight.rank or 0) if axis < 0 else axis
    return axis == (1 if node.op == "Gemm" and not node.attr("transB", 0) else 0)


def _stand_in(graph: Graph, node: Node, value: Value, dtype: DType, parameters: list[Value]) -> Value:
    tensor = value.tensor
    assert tensor is not None
    assert value.data is not None
    made = Node("DequantizeLinear", [_typed(graph, value.data, dtype), *parameters])
    made.output.type = tensor
    graph.insert_before(node, made)
    return made.output


def _typed(graph: Graph, data: Constant, dtype: DType) -> Value:
    return graph.add_constant(SplatConstant(0, dtype, data.shape))


def fill_where(work: Work) -> bool:
    """A constant scalar beside a DequantizeLinear of Where gets one too."""
    changed = False
    for node in p.nodes(work.graph):
        i = _bare_side(node)
        if i is None:
            continue
        other = node.inputs[3 - i]
        dq = other.producer if other is not None else None
        behind = p.only_reader(node)
        if not p.is_dequantize(dq) or not p.is_quantize(behind) or p.stored(dq) is not p.stored(behind):
            continue
        dtype, value = p.stored(dq), node.inputs[i]
        if dtype is None or value is None or value.data is None or len(dq.inputs) < 3 or value.dtype is not DType.F32:
            continue
        zero = dq.inputs[p.ZERO]
        assert zero is not None
        node.set_input(i, _stand_in(work.graph, node, value, dtype, [p.constant(work.graph, np.float32(1)), zero]))
        changed = True
    return changed


def _bare_side(node: Node) -> int | None:
    if node.op != "Where" or node.domain != "" or len(p.dequantizers(node)) != 1:
        return None
    for i in (1, 2):
        value = node.inputs[i]
        if value is not None and value.data is not None and value.rank == 0:
            return i
    return None


def unshare(work: Work) -> bool:
    """Every reader of a DequantizeLinear in the same graph gets one of its own."""
    changed = False
    for node in p.nodes(work.graph):
        if not p.is_dequantize(node):
            continue
        readers = p.edges(node.output)
        own = [(user, i) for user, i in readers if user.graph is work.graph]
        keep = len(own) == len(readers) and not node.output.is_output
        for user, i in own[1:] if keep else (own if len(readers) + p.returned(node) > 1 else []):
            copy = Node(node.op, node.inputs, dict(node.attrs), domain=node.domain)
            copy.output.type = node.output.type
            work.graph.insert_after(node, copy)
            user.set_input(i, copy.output)
            changed = True
    return changed


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
    direct = _producer(source, "Transpose")
    dq = source.producer if source is not None else None
    if direct is not None or not p.is_dequantize(dq) or not p.has_edges(dq, 1):
        return direct
    stored = dq.inputs[0]
    q = stored.producer if stored is not None else None
    if not p.is_quantize(q) or not p.has_edges(q, 1) or not p.is_scalar(q.input(p.SCALE)):
        return None
    return _producer(q.inputs[0], "Transpose")


_PASSES: tuple[Callable[[Work], bool], ...] = (
    drop_identities,
    drop_double_pairs,
    share_constants,
    merge_equal,
    fold,
    fuse_bias,
    fuse_reshape,
    propagate,
    quantize_weights,
    fill_where,
    unshare,
    cancel_transposes,
)
