"""What rounding noise does to a model: the yardstick for what a reordering of its arithmetic may do.

Monte Carlo arithmetic: in a noisy copy of the model every float result that depends on the inputs is
multiplied by ``1 + STRENGTH * eps`` or ``1 - STRENGTH * eps`` (``eps`` is the spacing of its element type at
1), and every weight and input is moved by up to ``STRENGTH`` spacings. Its outputs differ from the model's
as much as another order of rounding could make them, or a few times more.
Operations that do not round (moves, comparisons, maxima) add no noise, and neither does anything that shapes
are computed from. The original under the runtime's own optimizer is one more draw.
Source: D. S. Parker, Monte Carlo Arithmetic, UCLA CSD-970002, 1997.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import numpy as np

from ...backends.core import Array, Sample
from ...ir.clone import clone_model
from ...ir.constants import ArrayConstant
from ...ir.dtypes import DType, from_numpy
from ...ir.graph import Graph, Model, Node, Value
from ...ir.ops import MOVEMENT

STRENGTH = {DType.F32: 8, DType.F64: 8, DType.F16: 1}
"""Spacings. Sums of hundreds of terms round that much, and draws also find what one rounding in ten changes, as
steps do. Kernels for float16 sum in float32 and round once."""
NOISY_TYPES = tuple(STRENGTH)
MAX_WEIGHT_BYTES = 1 << 29
"""Weights beyond this many bytes in all stay as they are: noise in the results alone must do."""
_EXACT = {op for _, op in MOVEMENT} | set(
    "Abs Neg Relu Max Min Clip MaxPool GlobalMaxPool ReduceMax ReduceMin Sign Floor Ceil Round Where Cast CastLike "
    "ConstantOfShape EyeLike Range TopK NonZero Compress ScatterElements ScatterND SequenceAt If Loop Scan".split()
)
_WEIGHTED = set(
    "Conv ConvTranspose MatMul Gemm Add Sub Mul Div BatchNormalization InstanceNormalization LayerNormalization "
    "GroupNormalization PRelu LSTM GRU RNN Einsum".split()
)
_SHAPE_OPERANDS: dict[str, tuple[int, ...]] = {
    "Reshape": (1,),
    "Expand": (1,),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
    "Slice": (1, 2, 3, 4),
    "Tile": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "ConstantOfShape": (0,),
    "Split": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    "TopK": (1,),
    "OneHot": (1,),
    "Loop": (0, 1),
    "If": (0,),
    "CenterCropPad": (1,),
    "AffineGrid": (1,),
    "MaxUnpool": (2,),
}


def noisy_model(model: Model, seed: int) -> Model:
    """A copy of ``model`` with rounding noise everywhere. The same seed gives the same noise."""
    copy = clone_model(model)
    draw = np.random.default_rng([seed, 77])
    steady = _shape_cone(copy)
    moving = _depends_on_inputs(copy)
    for graph in list(copy.graph.all_graphs()):
        for node in list(graph):
            for out in node.outputs:
                if (
                    node.op not in _EXACT
                    and out in moving
                    and out not in steady
                    and out.dtype in NOISY_TYPES
                    and out.uses
                ):
                    _add_noise(node, out, bool(draw.random() < 0.5))
    _move_weights(copy, draw, steady, moving)
    _turn_transforms(copy, draw)
    return copy


def noisy_sample(sample: Sample, seed: int) -> dict[str, Array]:
    """The inputs, floats moved by up to ``STRENGTH`` spacings."""
    draw = np.random.default_rng([seed, 78])
    return {name: _moved(array, draw) if array.dtype.kind == "f" else array for name, array in sample.items()}


def _moved(array: Array, draw: np.random.Generator) -> Array:
    spacing: Any = np.finfo(array.dtype).eps
    strength = STRENGTH[from_numpy(array.dtype)]
    steps = cast("Array", draw.integers(-strength, strength + 1, array.shape))
    return np.asarray(array * (1 + steps * spacing).astype(array.dtype), array.dtype)


def _add_noise(node: Node, out: Value, up: bool) -> None:
    graph = node.graph
    assert graph is not None
    assert out.dtype is not None
    dtype = out.dtype.numpy
    step = STRENGTH[out.dtype] * np.finfo(dtype).eps
    factor = graph.add_constant(ArrayConstant(np.asarray(1 + step if up else 1 - step, dtype)), "noise")
    uses = list(out.uses)
    product = Node("Mul", (out, factor), name="noise")
    product.output.type = out.type
    graph.insert_after(node, product)
    for user, i in uses:
        user.set_input(i, product.output)


def _move_weights(model: Model, draw: np.random.Generator, steady: set[Value], moving: set[Value]) -> None:
    weights: dict[Value, None] = {}
    for node in model.graph.all_nodes():
        if node.op in _WEIGHTED and any(out in moving for out in node.outputs):
            for value in node.inputs:
                if value is not None and value.data is not None and value not in steady and value.dtype in NOISY_TYPES:
                    weights[value] = None
    usable = [v for v in weights if v.data is not None and (v.data.count >= 16 or len(v.data.shape) >= 2)]
    if sum(v.data.nbytes for v in usable if v.data is not None) > MAX_WEIGHT_BYTES:
        return
    for value in usable:
        assert value.data is not None
        value.data = ArrayConstant(_moved(value.data.numpy(), draw))


def _turn_transforms(model: Model, draw: np.random.Generator) -> None:
    """Noise in Fourier transforms whose length is no power of two.

    Runtimes compute those with factors e^(-i pi t^2 / n) of angles in the signal's own type (Bluestein's algorithm):
    rounding the angle moves the factor of time t by up to half a spacing of pi t^2 / n, three times over. Here the
    windows, or the signals, move as much.
    """
    for node in list(model.graph.all_nodes()):
        if node.domain or node.op not in ("STFT", "DFT"):
            continue
        place = 2 if node.op == "STFT" and node.input(2) is not None else 0
        moved = node.input(place)
        shape = moved.shape if moved is not None else None
        time = -1 if place else -2
        if moved is None or moved.dtype not in NOISY_TYPES or shape is None or len(shape) < -time:
            continue
        count = shape[time]
        if isinstance(count, int) and count & (count - 1):
            angles = np.pi * np.arange(count) ** 2 / count
            error = np.finfo(moved.dtype.numpy).eps * angles * draw.uniform(-1, 1, count)
            factors = (1 + error).astype(moved.dtype.numpy).reshape(-1, *[1] * (-1 - time))
            _multiply_operand(node, place, factors)


def _multiply_operand(node: Node, place: int, factors: Array) -> None:
    graph, x = node.graph, node.input(place)
    assert graph is not None
    assert x is not None
    product = Node("Mul", (x, graph.add_constant(ArrayConstant(factors), "noise")), name="noise")
    product.output.type = x.type
    graph.insert_before(node, product)
    node.set_input(place, product.output)


def _depends_on_inputs(model: Model) -> set[Value]:
    """Values that change with the contents (not just the shapes) of the inputs; inside bodies, all."""
    moving = set(model.graph.inputs)
    for graph in model.graph.all_graphs():
        inner = graph.parent is not None
        for node in graph:
            if node.op in ("Shape", "Size"):
                continue
            if inner or any(_has_body(node)) or any(v in moving for v in node.inputs):
                moving.update(node.outputs)
    return moving


def _has_body(node: Node) -> Iterable[bool]:
    return (True for _ in node.subgraphs) if node.attrs else ()


def _shape_cone(model: Model) -> set[Value]:
    """Values from which shapes, sizes, trip counts and branches are computed."""
    cone: set[Value] = set()
    stack: list[Value | None] = []
    for node in model.graph.all_nodes():
        operands = _SHAPE_OPERANDS.get(node.op, ()) if not node.domain else ()
        stack.extend(node.input(i) for i in operands)
    while stack:
        value = stack.pop()
        if value is None or value in cone:
            continue
        cone.add(value)
        node = value.producer
        if node is None:
            stack.extend(_body_source(value))
        elif node.op not in ("Shape", "Size"):
            stack.extend(node.inputs)
            for body in node.subgraphs if node.attrs else ():
                stack.extend(body.outputs)
    return cone


def _body_source(value: Value) -> list[Value | None]:
    """What an input of a body comes from: roughly, all operands of the node that runs it."""
    graph: Graph | None = value.graph
    if graph is None or graph.parent is None or value.data is not None:
        return []
    return list(graph.parent.inputs)


def resolutions(model: Model) -> list[float]:
    """For each output the scale at which it is rounded whatever its values: 0.5 behind a Sigmoid, else 0."""
    found: list[float] = []
    for value in model.graph.outputs:
        stack, seen = [value], set[Value]()
        while stack:
            v = stack.pop()
            node = v.producer
            if v in seen or node is None or node.domain:
                continue
            seen.add(v)
            if node.op == "Sigmoid":
                found.append(0.5)
                break
            if node.op in _EXACT and not node.subgraphs:
                stack.extend(operand for operand in node.inputs if operand is not None)
        else:
            found.append(0.0)
    return found
