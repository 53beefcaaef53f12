"""How long a model takes by a table of costs, for choosing where nothing can be measured.

    time = sum over nodes of overhead + max(operations / rate, bytes / bandwidth)

with operations and bytes of ``ir/cost.py``, and rates of the target's vectors. What ONNX Runtime does by itself is part
of it: activations and sums behind a product cost nothing of their own, convolutions outside the blocked layout run at
a lower rate, and what stands between two blocked operators without taking blocked tensors is reordered on both sides.
The rates were fitted on one x86 machine; they are for comparing models with each other, not for predicting time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...ir.cost import bytes_moved, flops, value_bytes
from ...ir.dims import SymDim
from ...ir.graph import Graph, Model, Node, Value
from ...ir.infer import infer_model
from ...ir.ops import is_pure
from ...ir.types import TensorType
from ...passes.shared.blocked import is_blocked_producer, is_blocked_user, is_window, lanes_of
from ...passes.target import Target
from ..dims import input_symbols, with_dims

DEFAULT_EXTENT = 16
"""Size of an open extent that no sample tells."""
_PRODUCTS = frozenset(
    "Conv ConvTranspose MatMul Gemm Einsum Attention LSTM GRU RNN FusedConv FusedGemm FusedMatMul MultiHeadAttention "
    "GroupQueryAttention MatMulInteger QLinearConv QLinearMatMul ConvInteger MatMulNBits NhwcFusedConv".split()
)
_FUSED_BEHIND = frozenset("Relu Sigmoid Tanh LeakyRelu Clip HardSigmoid BatchNormalization".split())
"""What ONNX Runtime fuses into a convolution in front."""
_VIEWS = frozenset("Reshape Flatten Squeeze Unsqueeze Identity".split())
_GIGAHERTZ = 3.0
_BYTES_PER_US = 8_000.0
_PRODUCT_SHARE, _UNBLOCKED_SHARE, _NARROW_SHARE, _POINTWISE_SHARE = 0.55, 0.2, 0.08, 0.05
"""Of the peak: blocked convolutions and large products, other convolutions, those of one channel a group, and the rest
(whose operations are divisions, exponentials and sums over strides)."""
_NODE_US, _VIEW_US, _BODY_US = 1.2, 0.6, 4.0


@dataclass(frozen=True)
class Estimate:
    """By the table, one thread."""

    time_us: float
    nodes: int
    unknown: int
    """Nodes whose shapes do not tell what they cost: counted as overhead only."""
    unknown_products: int
    """Convolutions, products, attention and recurrences among them: where there are any, the time says nothing."""


def peak_rate(target: Target) -> float:
    """Operations a microsecond, float32, one core."""
    if target.arch == "cuda":
        return 2e7
    fused = 4.0 if {"fma", "neon"} & target.features else 2.0
    return max(target.vector_bits, 128) / 32 * fused * _GIGAHERTZ * 1e3


def estimate(model: Model, target: Target, shapes: Mapping[str, Sequence[int]] | None = None) -> Estimate:
    """The time of one run on inputs of these shapes; open extents of inputs that are not named are
    :data:`DEFAULT_EXTENT`. The model is left as it is."""
    model = _closed(model, shapes or {})
    costs: dict[Graph, float] = {}
    nodes = unknown = products = 0
    folded: set[Value] = set()
    for graph in reversed(list(model.graph.all_graphs())):  # bodies before the nodes that hold them
        total = 0.0
        for node in graph:
            if _is_constant(node, folded):  # the runtime computes it while loading
                folded.update(node.outputs)
                continue
            found = _node_us(node, target)
            nodes, unknown = nodes + 1, unknown + (found is None)
            products += found is None and node.op in _PRODUCTS
            total += found if found is not None else _NODE_US
            if node.subgraphs:  # one branch of If, one turn of a loop
                total += _BODY_US + max(costs[body] for body in node.subgraphs)
        costs[graph] = total
    return Estimate(costs[model.graph], nodes, unknown, products)


def _closed(model: Model, shapes: Mapping[str, Sequence[int]]) -> Model:
    """The model with every extent of its inputs known; itself where it is so already."""
    sizes: dict[str, int] = {}
    open_inputs = [
        v for v in model.graph.inputs if v.shape is not None and any(not isinstance(d, int) for d in v.shape)
    ]
    if not open_inputs:
        return model
    for value in open_inputs:
        given = shapes.get(value.name, ())
        for d, size in zip(value.shape or (), given, strict=False):
            if isinstance(d, SymDim) and len(d.symbols()) == 1:
                sizes.setdefault(next(iter(d.symbols())), int(size))
    closed = with_dims(model, {name: sizes.get(name, DEFAULT_EXTENT) for name in input_symbols(model)})
    for value in closed.graph.inputs:
        if isinstance(value.type, TensorType) and value.shape is not None and None in value.shape:
            given = [*shapes.get(value.name, ()), *[DEFAULT_EXTENT] * len(value.shape)]
            value.type = replace(
                value.type, shape=tuple(g if d is None else d for d, g in zip(value.shape, given, strict=False))
            )
    infer_model(closed)
    return closed


def _is_constant(node: Node, folded: set[Value]) -> bool:
    """Whether it depends on constants only."""
    if node.subgraphs or not is_pure(node):
        return False
    return all(v is None or v.data is not None or v in folded for v in node.inputs)


def _node_us(node: Node, target: Target) -> float | None:
    if node.op in _VIEWS and not node.domain:
        return _VIEW_US
    if _is_free(node):
        return 0.0
    operations, moved = flops(node), bytes_moved(node)
    if not isinstance(operations, int) or not isinstance(moved, int):
        return None
    if node.op in ("Gather", "GatherElements", "GatherND", "Slice", "Split") and not node.domain:
        written = [value_bytes(v) for v in node.outputs]  # only what is taken is read
        moved = 2 * sum(b for b in written if isinstance(b, int))
    reordered = _reordered_bytes(node, target)
    rate = peak_rate(target) * _share(node, target)
    return _NODE_US + max(operations / rate, moved / _BYTES_PER_US) + reordered / _BYTES_PER_US


def _is_free(node: Node) -> bool:
    """Whether ONNX Runtime makes it part of the product in front."""
    source = node.input(0)
    if node.domain or source is None or source.producer is None:
        return False
    if node.op in _FUSED_BEHIND:
        return _is_sole(source) and source.producer.op == "Conv"
    if node.op != "Add" or len(node.inputs) != 2:
        return False
    return any(
        v is not None and v.producer is not None and v.producer.op == "Conv" and _is_sole(v) for v in node.inputs
    )


def _is_sole(value: Value) -> bool:
    return len(value.uses) == 1


def _is_blocked(target: Target) -> bool:
    """Whether ONNX Runtime has the blocked layout there."""
    return target.arch in ("x86_64", "any")


def _share(node: Node, target: Target) -> float:
    """Which part of the peak the kernel reaches."""
    if node.op not in _PRODUCTS:
        return _POINTWISE_SHARE
    if node.op != "Conv":
        return _PRODUCT_SHARE
    weight = node.input(1)
    shape = weight.shape if weight is not None else None
    if shape is None or len(shape) != 4 or not is_window(node) or not _is_blocked(target):
        return _UNBLOCKED_SHARE
    lanes, (out, per_group) = lanes_of(target), shape[:2]
    if not isinstance(out, int) or not isinstance(per_group, int):
        return _UNBLOCKED_SHARE
    group = int(node.attr("group", 1))
    if group > 1 and per_group == 1:
        return _NARROW_SHARE if group % lanes == 0 else _UNBLOCKED_SHARE / 4
    if group > 1 or (per_group >= lanes and per_group % 4):
        return _UNBLOCKED_SHARE
    filled = out / (-(-out // lanes) * lanes)  # the last block is padded
    return _PRODUCT_SHARE * filled


def _reordered_bytes(node: Node, target: Target) -> float:
    """Bytes that move because a plain operator stands between blocked ones."""
    if not _is_blocked(target) or node.op in _PRODUCTS or node.output.rank != 4 or is_blocked_user(node):
        return 0.0
    total = 0.0
    source = node.input(0)
    if source is not None and is_blocked_producer(source):
        total += 2 * _size(source)
    if any(is_window(user) for user in node.output.users):
        total += 2 * _size(node.output)
    return total


def _size(value: Value) -> float:
    found = value_bytes(value)
    return float(found) if isinstance(found, int) else 0.0
