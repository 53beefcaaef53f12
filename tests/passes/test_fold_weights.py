"""Folding into weights against ONNX Runtime (its optimizations off) on random products and maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planish.ir.builder import Builder
from planish.ir.dtypes import DType
from planish.ir.graph import Model, Value
from planish.ir.onnx_writer import model_to_bytes
from planish.ir.verify import verify
from planish.passes.manager import Pipeline, count_nodes

SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
MAPS = ("BatchNormalization", "Mul", "Add", "Sub", "RSub", "Div", "Neg")


def run(model: Model, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    outputs: Any = ort.InferenceSession(model_to_bytes(model), options).run(None, {"x": x})
    return outputs[0]


def check(build: Any, shape: tuple[int, ...], seed: int, expected_nodes: int) -> None:
    """Outputs before and after agree within 64 rounding errors of the largest, and the maps are gone."""
    before, after = build(), build()
    Pipeline("(fold-batchnorm,fold-scale-shift)").run(after)
    verify(after)
    assert count_nodes(after) == expected_nodes, after
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    want, have = run(before, x), run(after, x)
    assert want.shape == have.shape
    assert np.abs(want - have).max(initial=0) <= 64 * np.finfo(np.float32).eps * max(np.abs(want).max(initial=0), 1)


def affine_map(
    b: Builder, op: str, y: Value, channels: int, spatial: int, draw: np.random.Generator, scalar: bool
) -> Value:
    """``op`` with random constants; ``scalar`` gives one number for all channels."""

    def numbers(low: float = -2, high: float = 2) -> Any:
        shape = (1,) * draw.integers(0, spatial + 2) if scalar else (channels, *[1] * spatial)
        if not scalar and y.rank is not None and len(shape) < y.rank and draw.integers(2):
            shape = (1, *shape)
        return draw.uniform(low, high, shape).astype(np.float32)

    match op:
        case "BatchNormalization":
            rows = [draw.uniform(-2, 2, channels).astype(np.float32) for _ in range(3)]
            variance = draw.uniform(0.1, 4, channels).astype(np.float32)
            return b.BatchNormalization(y, *rows, variance, epsilon=float(draw.choice([1e-5, 1e-3])))
        case "Neg":
            return b.Neg(y)
        case "RSub":
            return b.Sub(numbers(), y)
        case "Div":
            return b.Div(y, numbers(0.5, 2))
        case _:
            operands = [y, numbers()]
            return b.op(op, *(operands if op == "Sub" or draw.integers(2) else reversed(operands)))


@given(
    seed=st.integers(0, 2**32 - 1),
    spatial=st.integers(1, 3),
    groups=st.integers(1, 3),
    ins=st.integers(1, 3),
    outs=st.integers(1, 3),
    kernel=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    stride=st.lists(st.integers(1, 2), min_size=3, max_size=3),
    dilation=st.lists(st.integers(1, 2), min_size=3, max_size=3),
    pads=st.lists(st.integers(0, 2), min_size=6, max_size=6),
    transpose=st.booleans(),
    bias=st.booleans(),
    maps=st.lists(st.tuples(st.sampled_from(MAPS), st.booleans()), min_size=1, max_size=3),
)
@SETTINGS
def test_maps_behind_convolutions(
    seed: int, spatial: int, groups: int, ins: int, outs: int, kernel: Any, stride: Any, dilation: Any, pads: Any,
    transpose: bool, bias: bool, maps: Any,
) -> None:  # fmt: skip
    channels = groups * outs
    shape = (2, groups * ins, *[7] * spatial)
    attrs: dict[str, Any] = {
        "group": groups,
        "strides": tuple(stride[:spatial]),
        "dilations": tuple(dilation[:spatial]),
        "pads": tuple(p if not transpose else p % 2 for p in pads[: 2 * spatial]),
    }

    def build() -> Model:
        draw = np.random.default_rng(seed)
        b = Builder(opset=17)
        x = b.input("x", DType.F32, shape)
        b_data = draw.standard_normal(channels).astype(np.float32)
        extra = [b_data] if bias else []
        w = (groups * ins, outs) if transpose else (channels, ins)
        weight = draw.standard_normal((*w, *kernel[:spatial])).astype(np.float32)
        if transpose:
            out_pad = tuple(int(draw.integers(0, s)) for s in stride[:spatial])
            y = b.ConvTranspose(x, weight, *extra, **attrs, output_padding=out_pad)
        else:
            y = b.Conv(x, weight, *extra, **attrs)
        for op, scalar in maps:
            y = affine_map(b, op, y, channels, spatial, draw, scalar)
        b.output(y, "y")
        return b.model()

    check(build, shape, seed, 1)


@given(
    seed=st.integers(0, 2**32 - 1),
    groups=st.integers(1, 3),
    spatial=st.integers(1, 2),
    transpose=st.booleans(),
    padded=st.booleans(),
    bias=st.booleans(),
    op=st.sampled_from(MAPS),
    scalar=st.booleans(),
)
@SETTINGS
def test_maps_in_front_of_convolutions(
    seed: int, groups: int, spatial: int, transpose: bool, padded: bool, bias: bool, op: str, scalar: bool
) -> None:
    ins, outs = 2, 3
    shape = (2, groups * ins, *[6] * spatial)

    def build() -> Model:
        draw = np.random.default_rng(seed)
        b = Builder(opset=17)
        x = b.input("x", DType.F32, shape)
        y = affine_map(b, op, x, groups * ins, spatial, draw, scalar)
        w = (groups * ins, outs) if transpose else (groups * outs, ins)
        weight = draw.standard_normal((*w, *[3] * spatial)).astype(np.float32)
        extra = [draw.standard_normal(groups * outs).astype(np.float32)] if bias else []
        pads = (1,) * (2 * spatial) if padded else (0,) * (2 * spatial)
        b.output(b.op("ConvTranspose" if transpose else "Conv", y, weight, *extra, group=groups, pads=pads), "y")
        return b.model()

    movable = op in ("Mul", "Div", "Neg") or not (transpose or padded)
    check(build, shape, seed, 1 if movable else 2)


@given(
    seed=st.integers(0, 2**32 - 1),
    rank=st.integers(2, 4),
    left=st.booleans(),
    bias=st.booleans(),
    maps=st.lists(st.tuples(st.sampled_from(MAPS[1:]), st.booleans()), min_size=1, max_size=3),
)
@SETTINGS
def test_maps_behind_matrix_products(seed: int, rank: int, left: bool, bias: bool, maps: Any) -> None:
    k, channels = 5, 4
    shape = (*[2] * (rank - 2), k, 3) if left else (*[2] * (rank - 2), 3, k)

    def build() -> Model:
        draw = np.random.default_rng(seed)
        b = Builder(opset=17)
        x = b.input("x", DType.F32, shape)
        weight = draw.standard_normal((channels, k) if left else (k, channels)).astype(np.float32)
        y = b.MatMul(weight, x) if left else b.MatMul(x, weight)
        if bias:
            y = b.Add(y, draw.standard_normal((channels, 1) if left else channels).astype(np.float32))
        for op, scalar in maps:
            y = affine_map(b, op, y, channels, 1 if left else 0, draw, scalar)
        b.output(y, "y")
        return b.model()

    # A shift needs an Add behind the product, and a first Add stays what it is.
    shifts = bias or any(op in ("Add", "Sub", "RSub") for op, _ in maps)
    check(build, shape, seed, 2 if shifts else 1)


@given(
    seed=st.integers(0, 2**32 - 1),
    trans_a=st.booleans(),
    trans_b=st.booleans(),
    bias=st.sampled_from(("none", "scalar", "row", "matrix")),
    front=st.booleans(),
    op=st.sampled_from(MAPS),
    scalar=st.booleans(),
)
@SETTINGS
def test_maps_around_gemm(
    seed: int, trans_a: bool, trans_b: bool, bias: str, front: bool, op: str, scalar: bool
) -> None:
    m, k, n = 3, 5, 4
    shape = (k, m) if trans_a else (m, k)

    def build() -> Model:
        draw = np.random.default_rng(seed)
        b = Builder(opset=17)
        y = x = b.input("x", DType.F32, shape)
        if front:
            y = affine_map(b, op, x, shape[1], 0, draw, scalar)
        weight = draw.standard_normal((n, k) if trans_b else (k, n)).astype(np.float32)
        c = {"none": None, "scalar": (), "row": (n,), "matrix": (1, n)}[bias]
        extra = [] if c is None else [draw.standard_normal(c).astype(np.float32)]
        y = b.Gemm(y, weight, *extra, alpha=0.5, beta=2.0, transA=int(trans_a), transB=int(trans_b))
        if not front:
            y = affine_map(b, op, y, n, 0, draw, scalar)
        b.output(y, "y")
        return b.model()

    check(build, shape, seed, 2 if front and trans_a else 1)
