"""Quantization arithmetic, against its definition and against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from planish.ir.dtypes import DType
from planish.passes.shared.quant.scheme import (
    SMALLEST_SCALE,
    Scheme,
    dequantize,
    make_quant,
    quant_from_range,
    quantize,
    rounded,
)

TYPES = [DType.U8, DType.I8, DType.U16, DType.I16, DType.U4, DType.I4]
SCHEMES = [Scheme(t, s, r) for t in TYPES for s in (False, True) for r in ((False, True) if t.bits == 8 else (False,))]
FINITE = st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@settings(max_examples=60, deadline=None)
@given(ends=st.tuples(FINITE, FINITE))
def test_range_holds_zero_and_its_ends(scheme: Scheme, ends: tuple[float, float]) -> None:
    low, high = min(ends), max(ends)
    scale, zero = quant_from_range(low, high, scheme)
    least, greatest = scheme.qmin, scheme.qmax
    assert np.isfinite(scale)
    assert scale >= SMALLEST_SCALE
    assert least <= zero <= greatest
    real = dequantize(np.array([zero, least, greatest]), scale, zero)
    assert real[0] == 0.0
    slack = scale * 0.501 + 1e-6 * max(abs(low), abs(high))
    assert real[1] <= low + slack
    assert real[2] >= high - slack


def test_range_without_width_and_not_finite() -> None:
    scale, zero = quant_from_range(0.0, 0.0, Scheme(DType.U8, symmetric=False))
    assert (float(scale), int(zero)) == (1.0, 0)
    scale, _ = quant_from_range(-1e-44, 1e-44, Scheme(DType.I8, symmetric=True))
    assert float(scale) == SMALLEST_SCALE
    with pytest.raises(ValueError, match="infinity"):
        quant_from_range(0.0, np.inf, Scheme(DType.U8, symmetric=False))


def test_smallest_range() -> None:
    scale, _ = quant_from_range(0.0, 1e-9, Scheme(DType.U8, symmetric=False, smallest_range=1e-4))
    assert float(scale) == pytest.approx(1e-4 / 255)


def test_reduced_pairs_of_products_fit_16_bits() -> None:
    scheme = Scheme(DType.I8, symmetric=True, reduced=True)
    least, greatest = scheme.qmin, scheme.qmax
    assert 2 * 255 * greatest <= 32767
    assert 2 * 255 * least >= -32768


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([DType.U8, DType.I8]))
def test_rounding_error_is_half_a_step_within_the_range(seed: int, storage: DType) -> None:
    draw = np.random.default_rng(seed)
    array = draw.standard_normal((6, 5)).astype(np.float32)
    scheme = Scheme(storage, symmetric=bool(seed % 2))
    scale, zero = quant_from_range(array.min(axis=1), array.max(axis=1), scheme)
    back = rounded(array, make_quant(scheme, scale, zero, axis=0))
    assert (np.abs(back - array) <= 0.5001 * scale[:, None] + 1e-7).all()


def runtime(array: Any, scale: Any, zero: Any, dtype: DType, **attrs: Any) -> Any:
    """What ONNX Runtime makes of it: stored and back."""
    import onnxruntime as ort
    from onnx import TensorProto as P
    from onnx import numpy_helper

    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attrs),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attrs),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", P.FLOAT, array.shape)],
        [
            helper.make_tensor_value_info("q", dtype.code, array.shape),
            helper.make_tensor_value_info("y", P.FLOAT, array.shape),
        ],
        [numpy_helper.from_array(np.asarray(scale), "s"), numpy_helper.from_array(np.asarray(zero), "z")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": array})


@pytest.mark.parametrize("dtype", [DType.U8, DType.I8, DType.U16, DType.I16])
def test_bits_are_the_runtimes(dtype: DType) -> None:
    draw = np.random.default_rng(3)
    array = np.concatenate([draw.standard_normal(4000) * 3, np.arange(-300, 300) / 2, [1e30, -1e30, np.inf, -np.inf]])
    array = array.astype(np.float32).reshape(4, -1)
    whole = Scheme(dtype, symmetric=False)
    least, greatest = whole.qmin, whole.qmax
    for scale, zero in ((1.0, least), (0.037, (least + greatest) // 3), (1e-3, greatest)):
        s, z = np.float32(scale), np.array(zero, dtype.numpy)
        expected = runtime(array, s, z, dtype)
        found = quantize(array, s, zero, dtype)
        np.testing.assert_array_equal(found, expected[0])
        np.testing.assert_array_equal(dequantize(found, s, zero), expected[1])


def test_bits_are_the_runtimes_per_channel_and_per_block() -> None:
    draw = np.random.default_rng(4)
    array = draw.standard_normal((6, 10)).astype(np.float32)
    scale = draw.uniform(0.01, 0.1, 10).astype(np.float32)
    zero = draw.integers(-20, 20, 10).astype(np.int8)
    expected = runtime(array, scale, zero, DType.I8, axis=1)
    np.testing.assert_array_equal(quantize(array, scale, zero, DType.I8, axis=1), expected[0])
    scale, zero = draw.uniform(0.01, 0.1, (3, 10)).astype(np.float32), draw.integers(-20, 20, (3, 10)).astype(np.int8)
    expected = runtime(array, scale, zero, DType.I8, axis=0, block_size=2)
    found = quantize(array, scale, zero, DType.I8, axis=0, block=2)
    np.testing.assert_array_equal(found, expected[0])
    np.testing.assert_array_equal(dequantize(found, scale, zero, axis=0, block=2), expected[1])
