"""What ONNX Runtime 1.31 does when the model is prepared (its level 2): signs, ranges, integer kernels, cleaning up.

Sources: ``relu_quantizelinear.cc``, ``clip_quantizelinear.cc``, ``qdq_s8_to_u8.cc``,
``qdq_selector_action_transformer.cc``, ``qdq_final_cleanup.cc`` of the runtime.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ....ir.dtypes import DType
from ....ir.graph import Node
from ... import pairs as p
from .units import Declined, Unit, clip_bounds, find_unit
from .work import Work


@dataclass
class Selection:
    """What becomes of the nodes of one graph, by its nodes in work."""

    units: dict[Node, Unit] = field(default_factory=dict[Node, Unit])
    declined: dict[Node, Declined] = field(default_factory=dict[Node, Declined])
    absorbed: dict[Node, Node] = field(default_factory=dict[Node, Node])
    """Relu and Clip nodes of the model, by the QuantizeLinear that does their work."""
    left: list[Node] = field(default_factory=list[Node])
    """QuantizeLinear and DequantizeLinear nodes that are executed."""


def select(work: Work, *, int8: bool, cuda: bool = False) -> Selection:
    """Level 2 on a prepared graph; ``int8``: there are kernels for signed activations; ``cuda``: for weights alone."""
    found = Selection()
    _drop_activations(work, found)
    if not int8:
        _make_unsigned(work)
    swapped = set[Node]() if cuda else _swap_transposes(work)
    for node in p.nodes(work.graph):
        if p.is_pair_member(node):
            continue
        if node in swapped:
            found.units[node] = Unit(node.op, (), ())
            continue
        try:
            found.units[node] = _for_provider(find_unit(node, int8=int8), cuda=cuda)
        except Declined as reason:
            if p.dequantizers(node) or p.quantizers(node):
                found.declined[node] = reason
    _absorb(work, found)
    found.left = _left(work, found)
    return found


def _for_provider(unit: Unit, *, cuda: bool) -> Unit:
    """The unit, where the provider has rules for it. Raises ``Declined``."""
    if cuda and unit.kernel != "MatMulNBits":
        raise Declined("no-integer-kernel", "the CUDA provider forms integer kernels of narrow weights only")
    return unit


def _drop_activations(work: Work, found: Selection) -> None:
    """Relu and Clip in front of a QuantizeLinear whose range implies them."""
    for node in p.nodes(work.graph):
        q = p.only_reader(node) if node.op in ("Relu", "Clip") and node.domain == "" else None
        if not p.is_quantize(q) or q.domain != "" or not _implied(node, q):
            continue
        if node in work.origin:
            found.absorbed[work.origin[node]] = q
        p.pass_by(node)


def _implied(node: Node, q: Node) -> bool:
    if not p.constant_scalar(q, p.ZERO):
        return False
    dtype, zero = p.stored(q), int(p.number(q, p.ZERO))
    if dtype is None or not dtype.is_integer:
        return False
    low, high = np.iinfo(dtype.numpy).min, np.iinfo(dtype.numpy).max
    if node.op == "Relu":
        return zero == low
    scale, bounds, source = q.inputs[p.SCALE], clip_bounds(node), node.inputs[0]
    if source is None or source.producer is None:
        return False  # the runtime cannot remove a node of several operands that reads an input of the graph
    if dtype not in (DType.I8, DType.U8) or bounds is None or scale is None or scale.data is None:
        return False
    if scale.rank != 0 or scale.dtype is not DType.F32:
        return False
    step, epsilon = np.float32(p.number(q, p.SCALE)), np.finfo(np.float32).eps
    lower, upper = step * np.float32(low - zero), step * np.float32(high - zero)
    return not (epsilon < bounds[0] - lower or epsilon < upper - bounds[1])


def _swap_transposes(work: Work) -> set[Node]:
    """Transpose nodes in front of a QuantizeLinear, or behind a DequantizeLinear, of one scale: they trade places.

    The runtime moves narrow numbers where it can; the pair stays, on the other side.
    """
    found: set[Node] = set()
    for node in p.nodes(work.graph):
        source = node.input(0) if node.op == "Transpose" and node.domain == "" else None
        if source is None or source.producer is None:
            continue
        behind, front = p.only_reader(node), source.producer
        if p.is_dequantize(front):
            continue
        if p.is_quantize(behind) and p.is_scalar(behind.input(p.SCALE)):
            found.add(node)
    return found


def _make_unsigned(work: Work) -> None:
    """Pairs of i8 become pairs of u8, where nobody else reads the stored numbers."""
    for q in p.nodes(work.graph):
        dq = p.only_reader(q) if p.is_quantize(q) else None
        if not p.is_dequantize(dq) or len(q.inputs) != 3 or len(dq.inputs) != 3:
            continue
        zeros = [n.inputs[p.ZERO] for n in (q, dq)]
        if any(z is None or z.data is None or z.data.count != 1 or z.dtype is not DType.I8 for z in zeros):
            continue
        if p.number(q, p.ZERO) != p.number(dq, p.ZERO):
            continue
        zero = np.array(int(p.number(q, p.ZERO)) + 128, np.uint8)
        for node in (q, dq):
            node.set_input(p.ZERO, p.constant(work.graph, zero))
        if q.output.tensor is not None:
            q.output.type = q.output.tensor.with_dtype(DType.U8)
        else:
            q.output.type = None


def _absorb(work: Work, found: Selection) -> None:
    for unit in found.units.values():
        if unit.absorbed is not None and unit.absorbed in work.origin:
            found.absorbed[work.origin[unit.absorbed]] = unit.quantizers[0]


def _left(work: Work, found: Selection) -> list[Node]:
    taken = {n for unit in found.units.values() for n in (*unit.dequantizers, *unit.quantizers)}
    left = [n for n in p.nodes(work.graph) if p.is_pair_member(n) and n not in taken]
    undone: set[Node] = set()
    for dq in left:
        q = p.only_reader(dq) if p.is_dequantize(dq) else None
        if not p.is_quantize(q) or q in taken or p.equal_parameters(q, dq):
            continue
        if not (q.output.is_output and p.edges(q.output)):
            undone |= {dq, q}
    return [n for n in left if n not in undone]
